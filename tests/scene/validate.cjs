// Print Khronos' verdict on GLB files, one JSON report a file: node validate.cjs NODE_MODULES FILE...
const { readFileSync } = require("fs");
const { join } = require("path");
const [packages, ...files] = process.argv.slice(2);
const validator = require(join(packages, "gltf-validator"));

async function main() {
  const reports = [];
  for (const file of files) {
    const report = await validator.validateBytes(new Uint8Array(readFileSync(file)), { maxIssues: 20 });
    reports.push({ file, ...report.issues });
  }
  console.log(JSON.stringify(reports));
}

main();
