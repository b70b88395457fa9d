/** Copies a command of our notes when it is clicked, in both renderers. */

import { app } from "../../../scripts/app.js";

const COMMANDS = ':is(.comfy-markdown, .comfy-markdown-content):has(a[href*="omnix-panorama"]) pre';

/** Copy a command; a page that is not on this computer may not, so the command is marked then. */
async function copy(command) {
  const text = command.textContent.trim();
  window.getSelection().selectAllChildren(command);
  const copied = await (navigator.clipboard?.writeText(text) ?? Promise.reject()).then(
    () => true,
    () => false,
  );
  const summary = copied ? "Command copied" : "Command marked: press Ctrl+C";
  app.extensionManager?.toast?.add({ severity: "info", summary, life: 3000 });
}

app.registerExtension({
  name: "OmniX.Notes",
  setup() {
    const href = new URL("./notes.css", import.meta.url).href;
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
    document.addEventListener("click", ({ target }) => {
      const command = target.closest?.(COMMANDS);
      if (command) copy(command);
    }, true);
  },
});
