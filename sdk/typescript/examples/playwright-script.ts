/**
 * A Playwright script whose browser runs in an instance. It needs `npm install playwright-core`, and no browser here.
 *
 *     node playwright-script.js https://example.com
 */

import { Landfast } from "landfast";
import { chromium } from "playwright-core";

async function main(url: string): Promise<void> {
  const client = new Landfast();
  const instance = await client.instances.create({ kind: "browser" });
  try {
    const browser = await chromium.connectOverCDP(await instance.browser.cdpUrl());
    const page = (await browser.contexts()[0]?.newPage()) ?? (await browser.newPage());
    await page.goto(url);
    console.log(await page.title());
    await page.screenshot({ path: "page.png" });
    await browser.close();
  } finally {
    await instance.delete();
  }
}

await main(process.argv[2] ?? "https://example.com");
