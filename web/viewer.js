/** Puts the panorama viewer into the OmniXPanoramaViewer node. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { Viewer } from "./panorama/viewer.js";
import { speaker } from "./panorama/words.js";

const NODE = "OmniXPanoramaViewer";
const SIZE = [520, 600];
const HEIGHT = 300;

const viewers = new Map(); // node -> {viewer, widget, shown}
const places = new Map(); // name of a removed node -> the element that contained its viewer

/** Get a file {filename, subfolder, type} from the server; the error has `gone` if the file no longer exists. */
async function fetchBlob({ filename, subfolder, type }) {
  const answer = await api.fetchApi(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
  if (!answer.ok) throw Object.assign(new Error(`The server answered ${answer.status}.`), { gone: answer.status === 404 });
  return answer.blob();
}

/** Return the view that the widget holds, or null. */
function captured(widget) {
  try {
    return JSON.parse(widget?.value || "null");
  } catch {
    return null; // the server shows a message when the graph runs
  }
}

// Switching tabs and reloading create the node again, and a reload loses the outputs of all nodes. The maps on show and
// the view are kept for the browser's session, not in the workflow, because looking around is not an edit.
function remember(key, value) {
  try {
    sessionStorage.setItem(`OmniX.${key}`, JSON.stringify(value));
  } catch {
    // The storage is full or forbidden: the viewer works without it.
  }
}

function recall(key) {
  try {
    return JSON.parse(sessionStorage.getItem(`OmniX.${key}`) ?? "null");
  } catch {
    return null; // Forbidden, or written by other code: the viewer opens as if nothing was stored.
  }
}

const viewKey = (maps) => `view.${maps[0]?.images?.[0]?.filename}`;
const mapsKey = (node) => `maps.${(node.graph?.rootGraph ?? node.graph)?.id}.${locator(node)}`;

/** Undo creates nodes again, but Nodes 2.0 keeps their drawn elements: put the new viewer into the old one's place. */
function takePlace(element, place) {
  if (place?.isConnected && !element.isConnected) place.replaceChildren(element);
}

function attach(node) {
  const widget = node.widgets?.find(({ name }) => name === "view");
  const entry = { widget, shown: [] };
  entry.viewer = new Viewer({
    fetchBlob,
    say: speaker(app.extensionManager?.setting?.get("Comfy.Locale")),
    keep: (view) => keep(widget, view),
    moved: (view) => entry.shown.length && remember(viewKey(entry.shown), view),
  });
  if (widget) hide(widget);
  const panel = node.addDOMWidget("panorama", "OMNIX_PANORAMA", entry.viewer.element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true,
    getMinHeight: () => HEIGHT,
    getValue: () => undefined,
    setValue: () => {},
  });
  panel.serialize = false;
  // The side panel of older frontends draws every widget a second time, and leaves it at the panel's width.
  Object.defineProperty(panel, "width", { get: () => undefined, set: () => {} });
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
  viewers.set(node, entry);
}

/** Hide the JSON field of the node; it is still saved with the workflow and sent with the graph. */
function hide(widget) {
  widget.hidden = true;
  widget.options.hidden = true;
}

/** Write the view into the workflow as one edit, which can be undone and marks the workflow as changed. */
function keep(widget, view) {
  if (!widget) return;
  app.canvas?.emitBeforeChange();
  widget.value = JSON.stringify(view);
  widget.callback?.(widget.value);
  app.canvas?.emitAfterChange();
}

/** Show the maps of a run, unless they are on show already. */
function show(node, entry, maps) {
  if (!maps?.length || JSON.stringify(maps) === JSON.stringify(entry.shown)) return;
  const first = !entry.shown.length;
  entry.shown = maps;
  entry.viewer.show(maps, first ? (recall(viewKey(maps)) ?? captured(entry.widget)) : null);
  remember(mapsKey(node), maps);
}

/** Return the key under which the frontend stores a node's outputs: "id", or "subgraph:id". */
const locator = ({ id, graph }) => (graph && graph !== graph.rootGraph ? `${graph.id}:${id}` : String(id));

app.registerExtension({
  name: "OmniX.PanoramaViewer",
  init() {
    const href = new URL("./panorama/viewer.css", import.meta.url).href;
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
  },
  nodeCreated(node) {
    if (node.constructor.comfyClass !== NODE) return;
    attach(node);
    const { onExecuted, onRemoved } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      show(this, viewers.get(this), output?.omnix_maps);
    };
    node.onRemoved = function () {
      onRemoved?.apply(this, arguments);
      const entry = viewers.get(node);
      if (entry) places.set(locator(node), entry.viewer.element.parentElement);
      entry?.viewer.dispose();
      viewers.delete(node);
    };
  },
  onNodeOutputsUpdated(outputs) {
    viewers.forEach((entry, node) => show(node, entry, outputs[locator(node)]?.omnix_maps));
  },
  afterConfigureGraph() {
    viewers.forEach((entry, node) => {
      takePlace(entry.viewer.element, places.get(locator(node)));
      if (!entry.shown.length) show(node, entry, recall(mapsKey(node)));
    });
    places.clear();
  },
});
