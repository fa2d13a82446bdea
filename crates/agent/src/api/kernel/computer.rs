//! `/kernel/computer`: what the browser shows, and hands on what it shows.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use landfast_core::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::super::answer::{Body, Refused, json as answer, parse, read_body, whole};
use crate::Agent;
use crate::browser::client::Client;
use crate::browser::hands::{Button, Hands, Mouse, Press, millis};
use crate::browser::keys::Key;
use crate::browser::pages::{attach, page};
use crate::browser::picture::{Picture, Region, Wish};

/// Actions of one batch: more than a model plans ahead.
const ACTIONS_MAX: usize = 100;

/// How long all of them may take: who waits for the answer waits no longer.
const ACTIONS_DEADLINE: Duration = Duration::from_secs(120);

/// Clicks of one action: three select a paragraph.
const CLICKS_MAX: u32 = 20;

/// Points of one drag.
const POINTS_MAX: usize = 1_000;

/// How long each part of a drag takes at least, so that it has steps.
const DRAG_LEAST: Duration = Duration::from_millis(48);

/// `POST computer/screenshot`: a PNG of what the window shows. To look twice changes nothing.
pub(super) async fn screenshot(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    #[derive(Default, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        region: Option<Region>,
    }
    let body = read_body(request).await?;
    let asked = if body.is_empty() { Asked::default() } else { parse(&body)? };
    let devtools = agent.services.browser()?.up().await?;
    let Picture { kind, bytes } = Wish::of(asked.region).take(&devtools).await?;
    let mut response = Response::new(whole(bytes));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `POST open {url}`: the page that was used last goes there. What comes of it is for the page to show.
pub(super) async fn open(agent: Arc<Agent>, body: Bytes) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        url: String,
    }
    let Asked { url } = parse(&body)?;
    let devtools = agent.services.browser()?.up().await?;
    let page = page(&devtools, None).await?;
    let (client, _events) = Client::connect(&devtools).await?;
    let session = attach(&client, &page).await?;
    client.call("Page.navigate", json!({"url": url}), Some(&session)).await.map_err(Problem::from)?;
    Ok(answer(StatusCode::OK, &json!({"ok": true})))
}

/// What hands do, as clients say it. Fields that are not known are refused: what they mean would be left out.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Action {
    ClickMouse { click_mouse: Click },
    MoveMouse { move_mouse: Move },
    DragMouse { drag_mouse: Drag },
    Scroll { scroll: Scroll },
    TypeText { type_text: Typed },
    PressKey { press_key: Keys },
    SetCursor { set_cursor: Cursor },
    Sleep { sleep: Pause },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Click {
    x: i32,
    y: i32,
    #[serde(default)]
    button: Button,
    #[serde(default)]
    click_type: Press,
    #[serde(default)]
    hold_keys: Vec<String>,
    num_clicks: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    x: i32,
    y: i32,
    #[serde(default)]
    hold_keys: Vec<String>,
    #[serde(default)]
    smooth: bool,
    duration_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Drag {
    path: Vec<[i32; 2]>,
    #[serde(default)]
    button: Button,
    #[serde(default)]
    delay: u64,
    #[serde(default)]
    hold_keys: Vec<String>,
    #[serde(default)]
    smooth: bool,
    duration_ms: Option<u64>,
    steps_per_segment: Option<u64>,
    step_delay_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scroll {
    x: i32,
    y: i32,
    #[serde(default)]
    delta_x: i64,
    #[serde(default)]
    delta_y: i64,
    #[serde(default)]
    hold_keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Typed {
    text: String,
    #[serde(default)]
    delay: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<String>,
    #[serde(default)]
    duration: u64,
    #[serde(default)]
    hold_keys: Vec<String>,
}

/// A headless browser draws no cursor, so there is nothing to hide or show.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    #[serde(rename = "hidden")]
    _hidden: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    duration_ms: u64,
}

/// `POST computer/{verb}`: one thing that hands do, or several in a `batch`.
pub(super) async fn act(agent: Arc<Agent>, verb: String, body: Bytes) -> Result<Response<Body>, Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Batch {
        actions: Vec<Action>,
    }
    let actions = match verb.as_str() {
        "batch" => parse::<Batch>(&body)?.actions,
        "click_mouse" => vec![Action::ClickMouse { click_mouse: parse(&body)? }],
        "move_mouse" => vec![Action::MoveMouse { move_mouse: parse(&body)? }],
        "drag_mouse" => vec![Action::DragMouse { drag_mouse: parse(&body)? }],
        "scroll" => vec![Action::Scroll { scroll: parse(&body)? }],
        "type" => vec![Action::TypeText { type_text: parse(&body)? }],
        "press_key" => vec![Action::PressKey { press_key: parse(&body)? }],
        "cursor" => vec![Action::SetCursor { set_cursor: parse(&body)? }],
        _ => return Err(ErrorCode::RequestNotFound.into()),
    };
    if actions.len() > ACTIONS_MAX {
        return Err(invalid(format!("A batch has at most {ACTIONS_MAX} actions.")).into());
    }
    let devtools = agent.services.browser()?.up().await?;
    let mut hands = Hands::on(&devtools, agent.desk.clone()).await?;
    let all = async {
        for action in actions {
            perform(&mut hands, action).await?;
        }
        Ok(())
    };
    let late = |_| Problem::new(ErrorCode::UpstreamTimeout, "The actions took too long; those before were done.");
    timeout(ACTIONS_DEADLINE, all).await.unwrap_or_else(|elapsed| Err(late(elapsed)))?;
    Ok(answer(StatusCode::OK, &json!({"ok": true})))
}

/// `POST computer/get_mouse_position`.
pub(super) fn position(agent: &Agent) -> Response<Body> {
    let Mouse { x, y, .. } = *agent.desk.lock().unwrap_or_else(PoisonError::into_inner);
    answer(StatusCode::OK, &json!({"x": x as i64, "y": y as i64}))
}

async fn perform(hands: &mut Hands, action: Action) -> Result<(), Problem> {
    match action {
        Action::ClickMouse { click_mouse: Click { x, y, button, click_type, hold_keys, num_clicks } } => {
            let times = num_clicks.unwrap_or(1);
            if times > CLICKS_MAX {
                return Err(invalid(format!("num_clicks is at most {CLICKS_MAX}.")));
            }
            holding(hands, &hold_keys, async |hands| {
                hands.move_to(point(x, y), Duration::ZERO).await?;
                hands.press(button, click_type, times).await
            })
            .await
        }
        Action::MoveMouse { move_mouse: Move { x, y, hold_keys, smooth, duration_ms } } => {
            let to = point(x, y);
            let within = match (smooth, duration_ms) {
                (false, _) => Duration::ZERO,
                (true, Some(said)) => millis("duration_ms", said)?,
                (true, None) => hands.pace(to),
            };
            holding(hands, &hold_keys, async |hands| hands.move_to(to, within).await).await
        }
        Action::DragMouse { drag_mouse } => drag(hands, drag_mouse).await,
        Action::Scroll { scroll: Scroll { x, y, delta_x, delta_y, hold_keys } } => {
            holding(hands, &hold_keys, async |hands| {
                hands.move_to(point(x, y), Duration::ZERO).await?;
                hands.scroll(delta_x, delta_y).await
            })
            .await
        }
        Action::TypeText { type_text: Typed { text, delay } } => {
            let letters = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
            // All of it together, so that nobody waits for an hour.
            millis("delay times the text", delay.saturating_mul(letters))?;
            hands.type_text(&text, millis("delay", delay)?).await
        }
        Action::PressKey { press_key: Keys { keys, duration, hold_keys } } => {
            let held = millis("duration", duration)?;
            let combinations: Vec<_> = keys.iter().map(|keys| Key::combination(keys)).collect::<Result<_, _>>()?;
            holding(hands, &hold_keys, async |hands| {
                for keys in &combinations {
                    strike(hands, keys, async |_| {
                        sleep(held).await;
                        Ok(())
                    })
                    .await?;
                }
                Ok(())
            })
            .await
        }
        Action::SetCursor { set_cursor: Cursor { _hidden: _ } } => Ok(()),
        Action::Sleep { sleep: Pause { duration_ms } } => {
            sleep(millis("duration_ms", duration_ms)?).await;
            Ok(())
        }
    }
}

async fn drag(hands: &mut Hands, drag: Drag) -> Result<(), Problem> {
    let Drag { path, button, delay, hold_keys, smooth, duration_ms, steps_per_segment, step_delay_ms } = drag;
    let &[[x, y], ref rest @ ..] = &*path else { return Err(invalid("A path has at least two points.")) };
    if rest.is_empty() || rest.len() > POINTS_MAX {
        return Err(invalid(format!("A path has two to {POINTS_MAX} points.")));
    }
    let whole = match (smooth, duration_ms) {
        (true, said) => said,
        // As many steps for each part, and a pause at each; the steps themselves are the screen's.
        (false, _) => {
            let steps = steps_per_segment.unwrap_or(1).saturating_mul(step_delay_ms.unwrap_or(0));
            Some(steps.saturating_mul(rest.len() as u64))
        }
    };
    let whole = whole.map(|whole| millis("the drag", whole)).transpose()?;
    let each = whole.map(|whole| whole / rest.len() as u32);
    let delay = millis("delay", delay)?;
    holding(hands, &hold_keys, async |hands| {
        hands.move_to(point(x, y), Duration::ZERO).await?;
        hands.press(button, Press::Down, 1).await?;
        sleep(delay).await;
        for &[x, y] in rest {
            let to = point(x, y);
            // A page takes a press that moves once for a drag only if it has moved before it is let go.
            hands.move_to(to, each.unwrap_or_else(|| hands.pace(to)).max(DRAG_LEAST)).await?;
        }
        hands.press(button, Press::Up, 1).await
    })
    .await
}

/// Does something while keys are held, which are let go whatever comes of it.
async fn holding(
    hands: &mut Hands,
    keys: &[String],
    what: impl AsyncFnOnce(&mut Hands) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let keys: Vec<Key> = keys.iter().map(|key| Key::named(key)).collect::<Result<_, _>>()?;
    strike(hands, &keys, what).await
}

async fn strike(
    hands: &mut Hands,
    keys: &[Key],
    what: impl AsyncFnOnce(&mut Hands) -> Result<(), Problem>,
) -> Result<(), Problem> {
    for key in keys {
        hands.key_down(key).await?;
    }
    let done = what(hands).await;
    for key in keys.iter().rev() {
        hands.key_up(key).await?;
    }
    done
}

fn point(x: i32, y: i32) -> (f64, f64) {
    (x.into(), y.into())
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}
