// A GLB in model-viewer, as a PNG: node shot.cjs CHROMIUM MESH PNG SIDE_PX FIELD_OF_VIEW_DEG DISTANCE. Only this machine is asked.
const fs = require('fs');
const http = require('http');
const path = require('path');
const { chromium } = require('playwright-core');

const [browserPath, mesh, out, side, fieldOfView, distance] = process.argv.slice(2);
const viewer = path.join(path.dirname(require.resolve('@google/model-viewer/package.json')), 'dist/model-viewer.min.js');
const page = `<!doctype html><style>body{margin:0}</style><script type="module" src="/viewer.js"></script>
<model-viewer src="/mesh.glb" style="width:${side}px;height:${side}px;background:#fff" camera-target="0m 0m 0m"
  camera-orbit="30deg 70deg ${distance}m" max-camera-orbit="auto auto 100m" field-of-view="${fieldOfView}deg"
  min-field-of-view="1deg" environment-image="neutral" tone-mapping="neutral" shadow-intensity="0" interaction-prompt="none">
  <div slot="progress-bar"></div>
</model-viewer>`;
const files = {
  '/': ['text/html', page],
  '/viewer.js': ['text/javascript', fs.readFileSync(viewer)],
  '/mesh.glb': ['model/gltf-binary', fs.readFileSync(mesh)],
};

const server = http.createServer((request, response) => {
  const found = files[request.url];
  response.writeHead(found ? 200 : 404, { 'content-type': found ? found[0] : 'text/plain' });
  response.end(found ? found[1] : '');
});

server.listen(0, '127.0.0.1', async () => {
  const flags = ['--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader', '--ignore-gpu-blocklist'];
  const browser = await chromium.launch({ executablePath: browserPath, args: flags });
  try {
    const size = Number(side);
    const tab = await browser.newPage({ viewport: { width: size, height: size } });
    tab.setDefaultTimeout(240000);
    await tab.goto(`http://127.0.0.1:${server.address().port}/`);
    await tab.waitForFunction(() => document.querySelector('model-viewer').loaded);
    await tab.evaluate(async () => {
      const viewer = document.querySelector('model-viewer');
      viewer.jumpCameraToGoal();
      await viewer.updateComplete;
      for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
    });
    await tab.screenshot({ path: out });
  } finally {
    await browser.close();
    server.close();
  }
});
