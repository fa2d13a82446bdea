//! Browsers as their users know them: driven by Playwright, Puppeteer and chrome-remote-interface, none of which knows
//! anything of Landfast.

use std::time::Duration;

use landfast_scenarios::browser::{Beside, Browser, Client};
use landfast_scenarios::cell::{Cell, eventually};
use landfast_scenarios::forwarded::Forwarded;
use landfast_scenarios::plain::{Event, PlainClient, Upgrade};
use serde_json::{Value, json};

#[tokio::test]
async fn a_playwright_script_finds_the_same_while_links_are_cut_and_its_node_restarts() {
    let (chromium, pages) = tokio::join!(Beside::chromium(), Beside::pages());
    let expected = Client::start("playwright.cjs", &[&chromium.url, &pages.url]).finds().await;
    let mut cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let mut found = std::pin::pin!(Client::start("playwright.cjs", &[&browser.cdp_url, &browser.pages]).finds());
    let mut cuts = 0;
    let found = loop {
        tokio::select! {
            found = &mut found => break found,
            () = tokio::time::sleep(Duration::from_millis(200)) => cell.cut_links(),
        }
        cuts += 1;
        if cuts == 5 || cuts == 15 {
            cell.nodes[0].restart().await;
        }
    };
    assert!(cuts > 15, "the script was over after {cuts} cuts");
    assert_eq!(found, expected);
}

#[tokio::test]
async fn every_client_finds_its_way_from_the_address_that_it_is_given() {
    let cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let http = browser.cdp_url.replacen("ws", "http", 1).replacen("/cdp?", "?", 1);
    let local = Forwarded::start(&browser.instance, "cdp").await;
    let local = format!("http://{}", local.address);
    for (client, url) in [
        ("playwright", &browser.cdp_url),
        ("playwright", &http),
        ("playwright", &local),
        ("puppeteer", &browser.cdp_url),
        ("puppeteer", &local),
        ("chrome-remote-interface", &local),
    ] {
        assert_eq!(Client::start("evaluate.cjs", &[client, url]).finds().await, json!(42), "{client} {url}");
    }
}

#[tokio::test]
async fn a_screenshot_is_of_the_page_that_was_used_last_and_as_large_as_asked_for() {
    let cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let opened = browser.opens("/").await;
    let png = async |query: &str| {
        let answer = browser.instance.ask("GET", &format!("/browser/screenshot?{query}"), None).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("image/png")), "{query}");
        let side = |at: usize| u32::from_be_bytes(answer.body[at..at + 4].try_into().unwrap());
        (side(16), side(20))
    };
    let (width, height) = png("").await;
    assert_eq!(png(&format!("target={}", opened["id"].as_str().unwrap())).await, (width, height));
    browser.opens("/tall").await;
    eventually("a tall page is loaded", async || (png("full_page=true").await.1 >= 5_000).then_some(())).await;
    let jpeg = browser.instance.ask("GET", "/browser/screenshot?format=jpeg&quality=50", None).await;
    assert_eq!((jpeg.header("content-type"), &jpeg.body[..2]), (Some("image/jpeg"), &[0xff, 0xd8][..]));
    for (query, refusal) in [("format=gif", (400, "request.invalid")), ("target=none", (404, "request.not_found"))] {
        let answer = browser.instance.ask("GET", &format!("/browser/screenshot?{query}"), None).await;
        assert_eq!(answer.refusal(), (refusal.0, refusal.1.to_owned()));
    }
}

/// The next frame of a screencast: its number, the URL of its page, and how many bytes it has.
async fn frame(viewer: &mut PlainClient) -> (u64, String, usize) {
    let Event::Text(about) = viewer.next().await else { panic!("no frame") };
    let about: Value = serde_json::from_str(&about).unwrap();
    let Event::Binary(image) = viewer.next().await else { panic!("no image") };
    assert_eq!(&image[..2], [0xff, 0xd8], "a JPEG");
    (about["frame"].as_u64().unwrap(), about["page"]["url"].as_str().unwrap().to_owned(), image.len())
}

#[tokio::test]
async fn a_viewer_gets_as_many_frames_as_it_draws_over_new_tabs_and_a_restart() {
    let cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let upgrade = Upgrade { subprotocol: None, ..browser.instance.upgrade("/browser/screencast?max_width=640") };
    let mut viewer = PlainClient::open(&upgrade).await.expect("a screencast");
    browser.opens("/ticks").await;
    // It changes fifty times a second, and nothing was answered.
    assert_eq!(frame(&mut viewer).await.0, 1);
    assert_eq!(frame(&mut viewer).await.0, 2);
    assert_eq!(viewer.next_within(Duration::from_millis(500)).await, None, "a frame that nobody had asked for");
    let mut last = 2;
    let mut comes_to = async |viewer: &mut PlainClient, wanted: &str| {
        loop {
            viewer.send_text(&format!("{{\"ack\":{last}}}")).await;
            let (number, url, _) = frame(viewer).await;
            assert_eq!(number, last + 1);
            last = number;
            if url.ends_with(wanted) {
                return;
            }
        }
    };
    comes_to(&mut viewer, "/ticks").await;
    browser.opens("/tall").await;
    comes_to(&mut viewer, "/tall").await;
    assert_eq!(browser.instance.ask("POST", "/browser/restart", Some(&json!({}))).await.status, 200);
    comes_to(&mut viewer, "about:blank").await;
    viewer.send_close(1000, "").await;
}

#[tokio::test]
async fn a_playwright_script_behind_a_forwarded_port_survives_gateways_and_moves() {
    let (chromium, pages) = tokio::join!(Beside::chromium(), Beside::pages());
    let expected = Client::start("playwright.cjs", &[&chromium.url, &pages.url]).finds().await;
    let mut cell = Cell::with_two_nodes().await;
    let browser = Browser::start(&cell).await;
    let forwarded = Forwarded::start(&browser.instance, "cdp").await;
    let url = format!("http://{}", forwarded.address);
    let mut found = std::pin::pin!(Client::start("playwright.cjs", &[&url, &browser.pages]).finds());
    let mut faults = 0;
    let found = loop {
        tokio::select! {
            found = &mut found => break found,
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
        faults += 1;
        if faults % 4 == 0 {
            cell.gateway.restart().await;
            cell.downstream.lead_to(cell.gateway.address());
        } else {
            let (_, there) = cell.place_of(&browser.instance).await;
            browser.instance.moves_to(there).await;
        }
    };
    assert!(faults > 4, "the script was over after {faults} faults");
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_browser_that_is_killed_closes_its_clients_at_once_and_is_there_for_the_next() {
    let cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let upgrade = Upgrade { subprotocol: None, ..browser.instance.upgrade("/cdp") };
    let mut client = PlainClient::open(&upgrade).await.expect("a connection");
    let pid = browser.state().await["pid"].as_i64().expect("it runs");
    browser.instance.ask("POST", "/exec", Some(&json!({"shell": format!("kill -9 {pid}")}))).await;
    client.expect_close(1012, "upstream.changed").await;
    let mut next = PlainClient::open(&upgrade).await.expect("it waits for the next browser");
    next.send_text(r#"{"id":1,"method":"Browser.getVersion"}"#).await;
    let Event::Text(answer) = next.next().await else { panic!("no answer") };
    assert!(answer.contains("Chrome/"), "{answer}");
    let ends = browser.told("cdp_disconnect").await;
    assert_eq!((ends.len(), &ends[0]["event"]["data"]["reason"]), (1, &json!("upstream_changed")));
}

#[tokio::test]
async fn a_page_that_dies_alone_is_told_and_takes_nobody_with_it() {
    let cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let upgrade = Upgrade { subprotocol: None, ..browser.instance.upgrade("/cdp") };
    let mut client = PlainClient::open(&upgrade).await.expect("a connection");
    browser.instance.ask("PUT", "/telemetry", Some(&json!({"page": true}))).await;
    eventually("a page is watched", async || {
        browser.opens("/").await;
        (!browser.told("page_load").await.is_empty()).then_some(())
    })
    .await;
    // The brackets keep the shell's own line from being one that is looked for.
    let killed = browser.instance.ask("POST", "/exec", Some(&json!({"shell": "pkill -9 -f 'type=[r]enderer'"}))).await;
    assert_eq!(killed.json()["exit"], json!({"code": 0}), "{killed:?}");
    let crashes = eventually("a dead page is told", async || {
        let crashes = browser.told("page_crashed").await;
        (!crashes.is_empty()).then_some(crashes)
    });
    assert_eq!(crashes.await[0]["event"]["data"]["status"], "killed");
    client.send_text(r#"{"id":1,"method":"Browser.getVersion"}"#).await;
    let Event::Text(answer) = client.next().await else { panic!("no answer") };
    assert!(answer.contains("Chrome/"), "{answer}");
}

#[tokio::test]
async fn what_pages_say_and_fetch_is_told_while_somebody_wants_to_know() {
    let cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let wanted = json!({"console": true, "network": true, "page": true});
    assert_eq!(browser.instance.ask("PUT", "/telemetry", Some(&wanted)).await.status, 200);
    for kind in ["console_log", "console_error", "network_request", "network_response", "page_navigation", "page_load"]
    {
        eventually(kind, async || {
            // Until the monitor is there, nobody hears.
            browser.opens("/says").await;
            (!browser.told(kind).await.is_empty()).then_some(())
        })
        .await;
    }
    assert_eq!(browser.told("console_log").await[0]["event"]["data"]["args"], json!(["said", 7]));
}

#[tokio::test]
async fn an_operator_reaches_a_browser_through_the_control_plane() {
    let cell = Cell::start().await;
    let browser = Browser::start(&cell).await;
    let path = format!("/v1/instances/{}/browser", browser.instance.id);
    assert_eq!(cell.operator.demand("GET", &path, None).await["state"], "up");
    let wanted = json!({"flags": ["--lang=de"]});
    let changed = cell.operator.demand("PATCH", &format!("{path}/flags"), Some(&wanted)).await;
    assert_eq!((&changed["flags"], &changed["state"]), (&wanted["flags"], &json!("up")));
    let sandbox = cell.create().await;
    let none = cell.operator.ask("GET", &format!("/v1/instances/{}/browser", sandbox.id), None).await;
    assert_eq!(none.refusal(), (404, "service.unknown".to_owned()));
}
