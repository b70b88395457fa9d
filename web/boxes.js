/** Shows every field that one of our boxes offers: some frontends hide those that are advanced inside, with no way to them. */

import { app } from "../../../scripts/app.js";

function showAll(node) {
  if (!node?.isSubgraphNode?.() || node.properties?.cnr_id !== "omnix-panorama") return;
  for (const { options } of node.widgets ?? []) if (options?.advanced) options.advanced = false;
}

app.registerExtension({
  name: "OmniX.Boxes",
  afterConfigureGraph() {
    (app.rootGraph ?? app.graph).nodes.forEach(showAll);
  },
  nodeCreated(node) {
    requestAnimationFrame(() => showAll(node)); // one that is put into the graph has its fields a little later
  },
});
