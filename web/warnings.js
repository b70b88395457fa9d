/** Shows what a run warned of: under the node that it is about, or under the box that the node is in, until it runs again. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const WARNING = "omnix.warning"; // omnix/runtime/patch.py sends it
const LINE = 18; // so much is always shown

const graphs = new Map(); // prompt id -> id of the workflow that it runs
const warned = new Map(); // id of a workflow -> Map of a node's id in the run, such as "4:1008" -> Map of sentence -> is a warning
const panels = new Map(); // node -> its panel
let drawing = false;

const root = () => app.rootGraph ?? app.graph;

/** Return the nodes on the way to a node of a run: the boxes around it from the outermost on, then itself. */
function way(id) {
  let graph = root();
  return String(id)
    .split(":")
    .map((part) => {
      const node = graph?.getNodeById(parseInt(part, 10));
      graph = node?.subgraph;
      return node;
    });
}

/** Return the node of the graph that is open, for a node of a run: itself, or the box that it is in. */
const onCanvas = (id) => way(id).find((node) => node && node.graph === (app.canvas.graph ?? root()));

function add(id, text, isWarning, promptId) {
  const workflow = graphs.get(promptId) ?? root().id;
  const nodes = warned.get(workflow) ?? new Map();
  const sentences = nodes.get(String(id)) ?? new Map();
  if (isWarning && !sentences.has(text)) announce(id, text);
  warned.set(workflow, nodes.set(String(id), sentences.set(text, isWarning)));
  if (!drawing) draw();
}

/** Write a warning into the console; in app mode, which shows no nodes, it is a message over the page. */
function announce(id, text) {
  const title = way(id)[0]?.title ?? "OmniX";
  console.warn(`OmniX: ${title}: ${text}`);
  if (!app.canvas.canvas.checkVisibility?.({ visibilityProperty: true }))
    app.extensionManager?.toast?.add({ severity: "warn", summary: title, detail: text });
}

/** Return the sentences by node of the open graph: {node: Map of sentence -> is a warning}. */
function shown() {
  const found = new Map();
  for (const [id, sentences] of warned.get(root().id) ?? []) {
    const node = onCanvas(id);
    if (node) found.set(node, new Map([...(found.get(node) ?? []), ...sentences]));
  }
  return found;
}

function forget(node) {
  const nodes = warned.get(root().id);
  for (const id of [...(nodes?.keys() ?? [])]) if (onCanvas(id) === node) nodes.delete(id);
}

function made(node) {
  const panel = Object.assign(document.createElement("div"), { className: "omnix-warnings", role: "status", tabIndex: 0 });
  const close = Object.assign(document.createElement("button"), { textContent: "×", ariaLabel: "Close" });
  close.addEventListener("click", () => forget(node));
  panel.append(close, document.createElement("ul"));
  app.canvas.canvas.parentElement.append(panel);
  return panel;
}

function fill(panel, sentences) {
  const words = [...sentences].map(([text, isWarning]) => (isWarning ? `⚠ ${text}` : text));
  const list = panel.querySelector("ul");
  if (list.dataset.words === words.join("\n")) return;
  list.dataset.words = words.join("\n");
  list.replaceChildren(...words.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

/** Put a panel under its node, as wide, and not over the next node below. */
function put(panel, node) {
  const { canvas, ds } = app.canvas;
  const [frame, outer] = [canvas.getBoundingClientRect(), panel.offsetParent?.getBoundingClientRect()];
  const drawn = document.querySelector(`.lg-node[data-node-id="${node.id}"]`)?.getBoundingClientRect();
  const [left, , width] = node.boundingRect;
  const bottom = drawn
    ? ds.convertCanvasToOffset([0, drawn.bottom - frame.top])[1]
    : node.boundingRect[1] + node.boundingRect[3];
  const below = app.canvas.graph.nodes
    .map(({ boundingRect: [x, y, w] }) => (x < left + width && x + w > left && y > bottom - 1 ? y - bottom : Infinity));
  const [x, y] = ds.convertOffsetToCanvas([left, bottom]);
  Object.assign(panel.style, {
    left: `${x + frame.left - (outer?.left ?? 0)}px`,
    top: `${y + frame.top - (outer?.top ?? 0)}px`,
    width: `${width}px`,
    transform: `scale(${ds.scale})`,
  });
  panel.style.setProperty("--room", `${Math.max(LINE, Math.min(...below, 100 * LINE) - 2)}px`);
}

/** Follow the nodes while there is something to show. */
function draw() {
  const found = app.canvas?.graph ? shown() : new Map();
  for (const [node, panel] of panels)
    if (!found.has(node)) {
      panel.remove();
      panels.delete(node);
    }
  for (const [node, sentences] of found) {
    if (!panels.has(node)) panels.set(node, made(node));
    fill(panels.get(node), sentences);
    put(panels.get(node), node);
  }
  drawing = [...warned.values()].some((nodes) => nodes.size);
  if (drawing) requestAnimationFrame(draw);
}

/** Remember which workflow a run is of: another may be open when the run warns. */
function followRuns() {
  const { queuePrompt } = api;
  api.queuePrompt = async function (number, data, ...more) {
    const answer = await queuePrompt.call(this, number, data, ...more);
    if (answer?.prompt_id && data?.workflow?.id) graphs.set(answer.prompt_id, data.workflow.id);
    return answer;
  };
}

app.registerExtension({
  name: "OmniX.Warnings",
  setup() {
    const href = new URL("./warnings.css", import.meta.url).href;
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
    followRuns();
    api.addEventListener(WARNING, ({ detail: { node, text, prompt_id } }) => add(node, text, true, prompt_id));
    // The frontend shows these on a node, but not those of a node inside of a box.
    api.addEventListener("progress_text", ({ detail: { nodeId, text, prompt_id } }) => {
      if (way(nodeId).length > 1 && way(nodeId).at(-1)?.comfyClass?.startsWith("OmniX")) add(nodeId, text, false, prompt_id);
    });
    api.addEventListener("executing", ({ detail }) => warned.forEach((nodes) => nodes.delete(String(detail))));
  },
});
