/** Correct Load Panorama in workflows from before it had `fit`: the frontend reads the values of fields by their order. */

import { app } from "../../../scripts/app.js";

const NODE = "OmniXLoadPanorama";
const DEFAULT = "by GPano";

app.registerExtension({
  name: "OmniX.LoadPanorama",
  loadedGraphNode(node) {
    const fit = node.comfyClass === NODE && node.widgets?.find(({ name }) => name === "fit");
    // In these workflows the value at this place belongs to the upload button.
    if (fit && !fit.options?.values?.includes(fit.value)) fit.value = DEFAULT;
  },
});
