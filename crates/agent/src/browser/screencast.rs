//! What a page looks like, as it changes, for a person who watches.
//!
//! Chromium says a frame whenever something has changed, and goes on as soon as it was told that the frame was taken. It
//! is told so at once, and only the newest frame is kept: a viewer gets one when it has room for one, so who is slow gets
//! fewer, never older ones, and costs one frame of memory.
//!
//! To the viewer go a text `{"frame": n, "width", "height", "page": {"id", "title", "url"}}` and the image as a binary
//! message. The viewer answers `{"ack": n}` when it has drawn it; at most [`AHEAD`] frames are not answered. It is
//! watched over tabs that are closed and opened, and over restarts of the browser.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use landfast_core::link::Close;
use landfast_core::{ErrorCode, Problem};
use landfast_net::head::{RequestHead, ResponseHead};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Client, Event, Events};
use super::pages::{Page, attach, page};
use super::picture::read_quality;
use super::spoken::{Speaker, Spoken, spoken};
use super::{Browser, DevTools};
use crate::Agent;
use crate::upgrade::handshake;

/// Where it is opened.
pub(crate) const PATH: &str = "/browser/screencast";

/// Frames that a viewer may not have answered yet: one on its way, and one that it draws.
const AHEAD: u64 = 2;

/// The quality of a frame in percent, if the viewer says nothing: text can be read, and a frame of a full window has some
/// 50 to 100 kB.
const QUALITY: u8 = 60;

/// The largest side of a frame in pixels.
const SIDE_MAX: u32 = 4_096;

/// Before looking again for a page, or for a browser that has just ended.
const PAUSE: Duration = Duration::from_millis(250);

/// How a viewer wants to watch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    quality: u8,
    max_width: u32,
    max_height: u32,
    /// Which page; where none is named, the newest.
    target: Option<String>,
}

/// A picture of the page, as it is to be sent.
#[derive(Clone, Debug)]
struct Frame {
    about: Value,
    image: Bytes,
}

type Newest = watch::Sender<Option<Arc<Frame>>>;

/// What a viewer says.
#[derive(Deserialize)]
struct Answer {
    ack: u64,
}

impl Wish {
    /// Reads what a query asks for; what is not ours in it may be meant for a hop before us.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`], naming the parameter.
    fn read(query: &str) -> Result<Self, Problem> {
        let mut wish = Self { quality: QUALITY, max_width: SIDE_MAX, max_height: SIDE_MAX, target: None };
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("quality", number)) => wish.quality = read_quality(number)?,
                Some(("max_width", number)) => wish.max_width = read_side("max_width", number)?,
                Some(("max_height", number)) => wish.max_height = read_side("max_height", number)?,
                Some(("target", id)) => wish.target = Some(id.to_owned()),
                Some(_) | None => {}
            }
        }
        Ok(wish)
    }
}

/// Opens a screencast by the head of an upgrade request.
///
/// # Errors
///
/// What is wrong with the request, or that there is no browser.
pub(crate) async fn open(agent: &Arc<Agent>, head: &RequestHead) -> Result<(ResponseHead, Spoken), Problem> {
    let browser = agent.services.browser()?.clone();
    let answer = handshake(head)?;
    let wish = Wish::read(head.query().unwrap_or(""))?;
    let (bytes, speaker) = spoken().await;
    agent.until_stopped(async move { cast(&browser, &wish, speaker).await });
    Ok((answer, bytes))
}

/// Shows a browser to a viewer until the viewer has gone, or the browser is not coming back.
async fn cast(browser: &Browser, wish: &Wish, speaker: Speaker) {
    let newest = Newest::new(None);
    let (acked, acks) = watch::channel(0);
    let Speaker { socket, farewell } = speaker;
    let (mut sink, mut stream) = socket.split();
    let close = tokio::select! {
        problem = film(browser, wish, &newest) => Some(Close::new(problem.code, "")),
        () = send(&mut sink, newest.subscribe(), acks) => None,
        () = hear(&mut stream, &acked) => None,
    };
    let socket = sink.reunite(stream).expect("they were split here");
    Speaker { socket, farewell }.end(close.unwrap_or_else(|| Close::new(ErrorCode::UpstreamEnded, ""))).await;
}

/// Keeps the newest frame of whatever start of the browser is up, until none is coming.
async fn film(browser: &Browser, wish: &Wish, newest: &Newest) -> Problem {
    loop {
        let devtools = match browser.up().await {
            Ok(devtools) => devtools,
            Err(problem) => return problem,
        };
        if let Err(problem) = film_one(&devtools, wish, newest).await {
            tracing::debug!(%problem, "a screencast was interrupted");
            if wish.target.is_some() && problem.code == ErrorCode::RequestNotFound {
                return problem;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Keeps the newest frame of one start of the browser, until that ends.
async fn film_one(devtools: &DevTools, wish: &Wish, newest: &Newest) -> Result<(), Problem> {
    let (client, mut events) = Client::connect(devtools).await?;
    // Those that are there are told as created too, and are not news.
    let there = client.call("Target.getTargets", json!({}), None).await?;
    let ids = there["targetInfos"].as_array().into_iter().flatten().filter_map(|target| target["targetId"].as_str());
    let mut known: HashSet<String> = ids.map(str::to_owned).collect();
    client.call("Target.setDiscoverTargets", json!({"discover": true}), None).await?;
    let mut filmed = Some(page(devtools, wish.target.as_deref()).await?);
    while let Some(page) = filmed {
        let session = attach(&client, &page).await?;
        let how = json!({
            "format": "jpeg", "quality": wish.quality, "maxWidth": wish.max_width, "maxHeight": wish.max_height
        });
        client.call("Page.startScreencast", how, Some(&session)).await?;
        let scene = Scene { client: &client, page: &page, session: &session, follows: wish.target.is_none() };
        filmed = scene.film(devtools, &mut events, &mut known, newest).await?;
        // The page may be gone, and its session with it.
        let _ = client.call("Target.detachFromTarget", json!({"sessionId": session}), None).await;
    }
    Ok(())
}

/// One page for as long as it is filmed.
struct Scene<'a> {
    client: &'a Client,
    page: &'a Page,
    session: &'a str,
    /// Whether a page that is opened is filmed instead.
    follows: bool,
}

impl Scene<'_> {
    /// Films the page until another is to be, which it returns, or the browser has ended.
    async fn film(
        &self,
        devtools: &DevTools,
        events: &mut Events,
        known: &mut HashSet<String>,
        newest: &Newest,
    ) -> Result<Option<Page>, Problem> {
        while let Some(event) = events.next().await {
            match event.method.as_str() {
                "Page.screencastFrame" if event.session.as_deref() == Some(self.session) => {
                    self.take(&event).await?;
                    newest.send_replace(self.frame(&event.params).map(Arc::new));
                }
                "Target.targetDestroyed" | "Target.targetCrashed" if event.params["targetId"] == *self.page.id => {
                    return match self.follows {
                        true => page(devtools, None).await.map(Some),
                        false => Err(ErrorCode::RequestNotFound.into()),
                    };
                }
                "Target.targetCreated" => {
                    let target = &event.params["targetInfo"];
                    let Some(id) = target["targetId"].as_str() else { continue };
                    if known.insert(id.to_owned()) && self.follows && target["type"] == "page" {
                        return page(devtools, Some(id)).await.map(Some);
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Tells the browser that the frame was taken, so that it goes on.
    async fn take(&self, event: &Event) -> Result<(), Problem> {
        let ack = json!({"sessionId": event.params["sessionId"]});
        self.client.call("Page.screencastFrameAck", ack, Some(self.session)).await.map(drop).map_err(Problem::from)
    }

    fn frame(&self, said: &Value) -> Option<Frame> {
        let image = STANDARD.decode(said["data"].as_str()?).ok()?.into();
        let (about, page) = (&said["metadata"], self.page);
        let about = json!({
            "width": about["deviceWidth"], "height": about["deviceHeight"],
            "page": {"id": page.id, "title": page.title, "url": page.url},
        });
        Some(Frame { about, image })
    }
}

/// Sends the newest frame whenever the viewer has room for one, until it has gone.
async fn send(
    sink: &mut SplitSink<WebSocketStream<DuplexStream>, Message>,
    mut newest: watch::Receiver<Option<Arc<Frame>>>,
    mut acks: watch::Receiver<u64>,
) {
    let mut number = 0;
    loop {
        if newest.changed().await.is_err() || acks.wait_for(|&acked| number < acked + AHEAD).await.is_err() {
            return;
        }
        let Some(frame) = newest.borrow_and_update().clone() else { continue };
        number += 1;
        let mut about = frame.about.clone();
        about["frame"] = number.into();
        let sent = async {
            sink.feed(Message::text(about.to_string())).await?;
            sink.send(Message::binary(frame.image.clone())).await
        };
        if sent.await.is_err() {
            return;
        }
    }
}

/// Hears which frames the viewer has drawn, until it has gone.
async fn hear(stream: &mut SplitStream<WebSocketStream<DuplexStream>>, acked: &watch::Sender<u64>) {
    while let Some(Ok(message)) = stream.next().await {
        if let Message::Text(text) = message
            && let Ok(Answer { ack }) = serde_json::from_str(&text)
        {
            acked.send_if_modified(|acked| ack > std::mem::replace(acked, ack.max(*acked)));
        }
    }
}

fn read_side(name: &str, text: &str) -> Result<u32, Problem> {
    let side = text.parse().ok().filter(|side| (1..=SIDE_MAX).contains(side));
    side.ok_or_else(|| {
        let detail = format!("{name} is {text:.20?}; say a number from 1 to {SIDE_MAX}.");
        Problem::new(ErrorCode::RequestInvalid, detail)
    })
}
