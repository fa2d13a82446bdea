"""A Playwright script whose browser runs in an instance. It needs `pip install playwright`, and no browser here.

python playwright_script.py https://example.com
"""

from __future__ import annotations

import sys

from playwright.sync_api import sync_playwright  # type: ignore[import-not-found,unused-ignore]

from landfast import Landfast


def main(url: str) -> None:
    with Landfast() as client, sync_playwright() as playwright:
        instance = client.instances.create("browser")
        try:
            browser = playwright.chromium.connect_over_cdp(instance.browser.cdp_url())
            page = browser.contexts[0].new_page()
            page.goto(url)
            print(page.title())
            page.screenshot(path="page.png")
        finally:
            instance.delete()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "https://example.com")
