/** The texts of the viewer. English is the key, so that a text without a translation appears in English. */

const CHINESE = {
  "Reset": "复位",
  "Look to the front again (R)": "重新看向正前方（R）",
  "Full screen": "全屏",
  "Full screen, or back (F or double click)": "进入或退出全屏（F 或双击）",
  "Capture": "捕获",
  "Make this view the node's output from the next run on (C)": "从下次运行起，将此视角作为节点的输出（C）",
  "Save": "保存",
  "Save this view as a PNG file (S)": "将此视角保存为 PNG 文件（S）",
  "Copy": "复制",
  "Copy this view to the clipboard": "将此视角复制到剪贴板",
  "Panorama": "全景图",
  "Maps": "贴图",
  "View": "视角",
  "Picture of the batch": "批次中的图片",
  "Previous picture (Shift+B)": "上一张图片（Shift+B）",
  "Next picture (B)": "下一张图片（B）",
  "Panorama viewer: drag or arrow keys to look, wheel or + and - to zoom, M for the next map":
    "全景查看器：拖动或按方向键环视，滚轮或 + 和 - 缩放，M 切换到下一张贴图",
  "Show {0}": "显示{0}",
  "Show {0} ({1})": "显示{0}（{1}）",
  "Panorama {0}, looking {1} and {2}": "全景图{0}，{1}，{2}",
  "{0}° to the right": "向右 {0}°",
  "{0}° to the left": "向左 {0}°",
  "{0}° up": "向上 {0}°",
  "{0}° down": "向下 {0}°",
  "Run the graph to look around in the panorama.": "运行工作流后，即可在全景图中环视。",
  "The server no longer has this picture; run the graph again.": "服务器上已没有这张图片，请重新运行工作流。",
  "The browser refuses full screen here.": "浏览器不允许在此处全屏。",
  "Captured: the next run outputs this view.": "已捕获：下次运行将输出此视角。",
  "Copied.": "已复制。",
  "The browser refuses to copy here (it needs https or localhost); use Save.":
    "浏览器不允许在此处复制（需要 https 或 localhost），请使用“保存”。",
  "This browser offers no WebGL2, so the panorama cannot be shown.": "此浏览器不支持 WebGL2，无法显示全景图。",
  "The browser lost the graphics card; waiting for it.": "显卡暂时不可用，正在等待恢复。",
  "image": "图像",
  "depth": "深度",
  "normal": "法线",
  "albedo": "反照率",
  "roughness": "粗糙度",
  "metallic": "金属度",
  "semantic": "语义",
};

/** Return a function that translates an English text and fills in {0}, {1}, .. */
export function speaker(locale) {
  const known = locale === "zh" ? CHINESE : {};
  return (english, ...values) => (known[english] ?? english).replace(/\{(\d)\}/g, (_, i) => values[i]);
}
