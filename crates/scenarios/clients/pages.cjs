// The pages that the clients of CDP visit: plain, and the same every time.
'use strict';
const http = require('node:http');

const page = (title, body) => `<!doctype html><html lang="en"><title>${title}</title>
<style>body { margin: 20px; font: 20px monospace; background: #fff } .box { width: 120px; height: 80px; background: #36c }</style>
<body>${body}</body></html>`;

const pages = {
  '/': page('Home', '<a id="form" href="/form">A form</a> <a id="file" href="/file.bin" download>A file</a> <div class="box"></div>'),
  '/form': page('Form', `<form action="/said"><input name="text" id="text"><button id="send">Send</button></form>`),
  '/tall': page('Tall', '<div style="height: 5000px"></div>'),
  '/ticks': page('Ticks', `<p id="tick" style="font-size: 90px">0</p><script>
    setInterval(() => { document.getElementById('tick').textContent = Number(document.getElementById('tick').textContent) + 1; }, 20);
  </script>`),
  '/says': page('Says', `<script>console.log('said', 7); console.error('wrong'); fetch('/data.json');</script>`),
  '/fetches': page('Fetches', `<p id="got"></p><script>
    fetch('/data.json').then((answer) => answer.json()).then((data) => { document.getElementById('got').textContent = data.from; });
  </script>`),
};

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://pages');
  const say = (type, body, headers = {}) => response.writeHead(200, { 'content-type': type, ...headers }).end(body);
  if (url.pathname === '/said') return say('text/html', page('Said', `<p id="said">${url.searchParams.get('text')}</p>`));
  if (url.pathname === '/data.json') return say('application/json', '{"from":"the server"}');
  if (url.pathname === '/file.bin') {
    return say('application/octet-stream', Buffer.alloc(100000, 'landfast'), { 'content-disposition': 'attachment; filename="file.bin"' });
  }
  if (url.pathname.startsWith('/tab/')) return say('text/html', page(`Tab ${url.pathname.slice(5)}`, '<p>A tab</p>'));
  if (pages[url.pathname]) return say('text/html', pages[url.pathname]);
  return response.writeHead(404).end();
});
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log(server.address().port));
