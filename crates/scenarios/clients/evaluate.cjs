// One client of CDP, one page, one question: node evaluate.cjs CLIENT URL
//
// With a third argument the question takes so many milliseconds, and what became of it is told.
'use strict';
const [client, url, takes = '0'] = process.argv.slice(2);
const question = `new Promise((done) => setTimeout(() => done(6 * 7), ${Number(takes)}))`;

const clients = {
  async playwright() {
    const browser = await require('playwright-core').chromium.connectOverCDP(url);
    const page = await (await browser.newContext()).newPage();
    console.error('asking');
    const answer = await page.evaluate(question);
    await browser.close();
    return answer;
  },
  async puppeteer() {
    const where = url.startsWith('ws') ? { browserWSEndpoint: url } : { browserURL: url };
    const browser = await require('puppeteer-core').connect(where);
    const page = await browser.newPage();
    console.error('asking');
    const answer = await page.evaluate(question);
    await page.close();
    await browser.disconnect();
    return answer;
  },
  async 'chrome-remote-interface'() {
    const CDP = require('chrome-remote-interface');
    const { hostname: host, port } = new URL(url);
    const target = await CDP.New({ host, port });
    const client = await CDP({ host, port, target });
    console.error('asking');
    const { result } = await client.Runtime.evaluate({ expression: question, awaitPromise: true });
    await CDP.Close({ host, port, id: target.id });
    await client.close();
    return result.value;
  },
};

clients[client]().then((answer) => console.log(answer), (error) => {
  console.log(`failed: ${error.message.split('\n')[0]}`);
  process.exit(1);
});
