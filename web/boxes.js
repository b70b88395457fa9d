/** Additions to the frontend for our boxes: every field that a box offers, and a page behind the ⓘ of a box. */

import { app } from "../../../scripts/app.js";

const INFO = '[data-testid="info-button"]'; // ⓘ over what is selected

const isBox = (node) => node?.isSubgraphNode?.() && node.properties?.cnr_id === "omnix-panorama";

/** Some frontends hide fields that are advanced inside, with no way to them. */
function showAll(node) {
  if (!isBox(node)) return;
  for (const { options } of node.widgets ?? []) if (options?.advanced) options.advanced = false;
}

/** Return the box that is selected, if nothing else is. */
function selectedBox() {
  const [node, ...others] = app.canvas.selectedItems;
  return !others.length && isBox(node) ? node : null;
}

const made = (tag, ...children) => {
  const element = document.createElement(tag);
  element.append(...children);
  return element;
};

/** Return what a node inside says of the input or output at an end of a link. */
function said(subgraph, link, isInput) {
  const node = subgraph.getNodeById(isInput ? link?.target_id : link?.origin_id);
  const { input, output_tooltips } = node?.constructor.nodeData ?? {};
  if (!isInput) return output_tooltips?.[link.origin_slot];
  return { ...input?.required, ...input?.optional }[node?.inputs[link.target_slot]?.name]?.[1]?.tooltip;
}

/** Return a table of inputs or outputs; the first node inside that says something of one explains it. */
function table(subgraph, slots, isInput) {
  const rows = slots.map(({ name, type, linkIds }) => {
    const words = linkIds.map((id) => said(subgraph, subgraph.getLink(id), isInput)).find(Boolean) ?? "";
    return made("tr", made("th", name), made("td", type), made("td", words));
  });
  return made("table", ...rows);
}

function showPage({ title, subgraph }) {
  const close = Object.assign(made("button", "×"), { ariaLabel: "Close" });
  const dialog = made(
    "dialog",
    made("form", close),
    made("h1", title),
    made("p", subgraph.description ?? ""),
    made("h2", "Inputs"),
    table(subgraph, subgraph.inputs, true),
    made("h2", "Outputs"),
    table(subgraph, subgraph.outputs, false),
    made("p", "To read about a node inside, enter the subgraph, select the node and press the same button."),
  );
  dialog.firstChild.method = "dialog";
  dialog.className = "omnix-box-page";
  dialog.setAttribute("closedby", "any");
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // to the frontend, Escape and letters are commands
    if (event.key === "Escape") dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
}

app.registerExtension({
  name: "OmniX.Boxes",
  setup() {
    const href = new URL("./boxes.css", import.meta.url).href;
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
    // The frontend has pages for nodes, none for subgraphs: there its ⓘ opens the panel of parameters.
    document.addEventListener("click", (event) => {
      const box = event.target.closest?.(INFO) && selectedBox();
      if (!box) return;
      event.stopPropagation();
      showPage(box);
    }, true);
  },
  afterConfigureGraph() {
    (app.rootGraph ?? app.graph).nodes.forEach(showAll);
  },
  nodeCreated(node) {
    requestAnimationFrame(() => showAll(node)); // one that is put into the graph has its fields a little later
  },
});
