/** Load Panorama in workflows that were saved before it had a fit: the frontend reads the values of fields by their order. */

import { app } from "../../../scripts/app.js";

const NODE = "OmniXLoadPanorama";
const DEFAULT = "by GPano";

app.registerExtension({
  name: "OmniX.LoadPanorama",
  loadedGraphNode(node) {
    const fit = node.comfyClass === NODE && node.widgets?.find(({ name }) => name === "fit");
    // What stood there was the value of the button for uploads.
    if (fit && !fit.options?.values?.includes(fit.value)) fit.value = DEFAULT;
  },
});
