/** Puts the panorama viewer into the OmniXPanoramaViewer node. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { Viewer } from "./panorama/viewer.js";

const NODE = "OmniXPanoramaViewer";
const SIZE = [480, 420];
const HEIGHT = 300;

const viewers = new Map(); // node -> {viewer, widget, shown}

/** Get a file {filename, subfolder, type} from the server; the error has `gone` if it is not there any more. */
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
    return null; // the server tells in a sentence when the graph runs
  }
}

// Switching tabs and reloading make the node anew. Where a person looked is kept for the browser's session under the
// name of the picture, not in the workflow: looking around is no edit.
const memory = (maps) => `OmniX.view.${maps[0]?.images?.[0]?.filename}`;

function remembered(maps) {
  return JSON.parse(sessionStorage.getItem(memory(maps)) ?? "null");
}

function attach(node) {
  const widget = node.widgets?.find(({ name }) => name === "view");
  const entry = { widget, shown: [] };
  entry.viewer = new Viewer({
    fetchBlob,
    keep: (view) => keep(node, widget, view),
    moved: (view) => entry.shown.length && sessionStorage.setItem(memory(entry.shown), JSON.stringify(view)),
  });
  if (widget) hide(widget);
  const panel = node.addDOMWidget("panorama", "OMNIX_PANORAMA", entry.viewer.element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getValue: () => undefined,
    setValue: () => {},
  });
  panel.serialize = false;
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
  viewers.set(node, entry);
}

/** Take the JSON field off the node; it is still saved with the workflow and sent with the graph. */
function hide(widget) {
  widget.hidden = true;
  widget.options = { ...widget.options, hidden: true };
}

function keep(node, widget, view) {
  if (!widget) return;
  node.graph?.beforeChange();
  widget.value = JSON.stringify(view);
  widget.callback?.(widget.value);
  node.graph?.afterChange();
}

/** Show the maps of a run, unless they are on show already. */
function show(entry, output) {
  const maps = output?.omnix_maps;
  if (!maps?.length || JSON.stringify(maps) === JSON.stringify(entry.shown)) return;
  const first = !entry.shown.length;
  entry.shown = maps;
  entry.viewer.show(maps, first ? (remembered(maps) ?? captured(entry.widget)) : null);
}

/** Return the name under which the frontend files a node's outputs: "id", or "subgraph:id". */
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
      show(viewers.get(node), output);
    };
    node.onRemoved = function () {
      onRemoved?.apply(this, arguments);
      viewers.get(node)?.viewer.dispose();
      viewers.delete(node);
    };
  },
  onNodeOutputsUpdated(outputs) {
    viewers.forEach((entry, node) => show(entry, outputs[locator(node)]));
  },
});
