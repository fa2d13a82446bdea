// What an unmodified Playwright does with a browser: node playwright.cjs CDP_URL PAGES_URL [ROUNDS]
//
// Prints what it found, step by step, as JSON: the same for every browser of one version.
'use strict';
const { createHash } = require('node:crypto');
const { chromium } = require('playwright-core');

const [cdp, pages, rounds = '1'] = process.argv.slice(2);
const hash = (bytes) => createHash('sha256').update(bytes).digest('hex');

async function round(browser) {
  const found = {};
  const context = await browser.newContext({ viewport: { width: 640, height: 480 }, deviceScaleFactor: 1 });
  const page = await context.newPage();

  await page.goto(`${pages}/`);
  found.title = await page.title();
  found.screenshot = hash(await page.screenshot());

  await page.click('#form');
  await page.fill('#text', 'typed');
  await page.type('#text', ' by hand');
  await page.click('#send');
  found.said = await page.textContent('#said');

  let sum = 0;
  for (let i = 0; i < 1000; i += 1) sum += await page.evaluate((number) => number * 2, i);
  found.sum = sum;

  await page.route('**/data.json', (route) => route.fulfill({ json: { from: 'the interception' } }));
  await page.goto(`${pages}/fetches`);
  await page.waitForFunction(() => document.getElementById('got').textContent);
  found.intercepted = await page.textContent('#got');
  await page.unroute('**/data.json');
  await page.goto(`${pages}/fetches`);
  await page.waitForFunction(() => document.getElementById('got').textContent);
  found.fetched = await page.textContent('#got');

  found.download = await download(browser, context, page);

  const tabs = await Promise.all([1, 2, 3, 4, 5].map(async (number) => {
    const tab = await context.newPage();
    await tab.goto(`${pages}/tab/${number}`);
    const title = await tab.title();
    const picture = hash(await tab.screenshot());
    await tab.close();
    return { title, picture };
  }));
  found.tabs = tabs;
  await context.close();
  return found;
}

/// The browser may be on another machine, so what it saved is asked of it and not looked for here.
async function download(browser, context, page) {
  await page.goto(`${pages}/`);
  const [event] = await Promise.all([page.waitForEvent('download'), page.click('#file')]);
  return { name: event.suggestedFilename(), failure: await event.failure() };
}

(async () => {
  const browser = await chromium.connectOverCDP(cdp);
  const found = [];
  for (let i = 0; i < Number(rounds); i += 1) found.push(await round(browser));
  await browser.close();
  console.log(JSON.stringify(found));
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
