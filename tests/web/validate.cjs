// Issues that the Khronos validator finds in GLB files: a line of JSON for each.
const fs = require('fs');
const validator = require('gltf-validator');

(async () => {
  for (const path of process.argv.slice(2)) {
    const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(path)));
    console.log(JSON.stringify(report.issues));
  }
})();
