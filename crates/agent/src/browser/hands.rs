//! Mouse and keyboard of the page that was used last, for who drives a browser by what a picture of it shows.
//!
//! A point is a pixel of that picture. Where the mouse is, and which of its buttons are down, is remembered between calls: a
//! button that one call pressed is held while the next one moves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use landfast_core::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::DevTools;
use super::client::Client;
use super::keys::Key;
use super::pages::{attach, page};

/// Pixels that a page scrolls by one step of a wheel, as those of mice on Linux do.
const WHEEL_STEP: i64 = 120;

/// How often a mouse that moves slowly tells where it is: as often as a screen shows it.
const FRAME: Duration = Duration::from_millis(16);

/// Pixels that an unhurried hand moves in a second, by which a slow move takes its time if nobody says one.
const PACE: f64 = 1_500.0;

/// The mouse between two calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Mouse {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// The buttons that are down, as bits.
    buttons: u8,
}

/// Where the mouse is, for all who ask. Never held across an await.
pub(crate) type Desk = Arc<Mutex<Mouse>>;

/// A button of a mouse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Button {
    #[default]
    Left,
    Right,
    Middle,
    Back,
    Forward,
}

/// What is done with a button.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Press {
    #[default]
    Click,
    Down,
    Up,
}

/// Somebody's hands on one page.
#[derive(Debug)]
pub(crate) struct Hands {
    client: Client,
    session: String,
    desk: Desk,
    modifiers: u8,
}

impl Button {
    const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
            Self::Middle => "middle",
            Self::Back => "back",
            Self::Forward => "forward",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
            Self::Middle => 4,
            Self::Back => 8,
            Self::Forward => 16,
        }
    }
}

impl Hands {
    /// Lays hands on the page that was used last.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestNotFound`] if none is open, or the browser's failure.
    pub(crate) async fn on(devtools: &DevTools, desk: Desk) -> Result<Self, Problem> {
        let page = page(devtools, None).await?;
        let (client, _events) = Client::connect(devtools).await?;
        let session = attach(&client, &page).await?;
        Ok(Self { client, session, desk, modifiers: 0 })
    }

    /// Moves the mouse there, at once or within that time.
    ///
    /// # Errors
    ///
    /// The browser's failure.
    pub(crate) async fn move_to(&self, (x, y): (f64, f64), within: Duration) -> Result<(), Problem> {
        let from = self.mouse();
        let steps = within.div_duration_f64(FRAME).max(1.0) as u32;
        for step in 1..=steps {
            let part = f64::from(step) / f64::from(steps);
            let at = (from.x + (x - from.x) * part, from.y + (y - from.y) * part);
            self.point("mouseMoved", at, self.held(), 0).await?;
            if step < steps {
                sleep(FRAME).await;
            }
        }
        Ok(())
    }

    /// How long an unhurried hand takes to a point.
    pub(crate) fn pace(&self, (x, y): (f64, f64)) -> Duration {
        let from = self.mouse();
        Duration::from_secs_f64((x - from.x).hypot(y - from.y) / PACE)
    }

    /// Presses a button where the mouse is, lets it go, or both, so many times.
    ///
    /// # Errors
    ///
    /// The browser's failure.
    pub(crate) async fn press(&self, button: Button, how: Press, times: u32) -> Result<(), Problem> {
        for count in 1..=times {
            if how != Press::Up {
                self.set(|mouse| mouse.buttons |= button.bit());
                self.point("mousePressed", self.place(), Some(button), count).await?;
            }
            if how != Press::Down {
                self.set(|mouse| mouse.buttons &= !button.bit());
                self.point("mouseReleased", self.place(), Some(button), count).await?;
            }
        }
        Ok(())
    }

    /// Turns the wheel where the mouse is, by so many steps to the right and down.
    ///
    /// # Errors
    ///
    /// The browser's failure.
    pub(crate) async fn scroll(&self, right: i64, down: i64) -> Result<(), Problem> {
        let (x, y) = self.place();
        let wheel = json!({"type": "mouseWheel", "x": x, "y": y, "modifiers": self.modifiers,
            "deltaX": right.saturating_mul(WHEEL_STEP), "deltaY": down.saturating_mul(WHEEL_STEP)});
        self.call("Input.dispatchMouseEvent", wheel).await
    }

    /// Types a text, with so long between two letters.
    ///
    /// # Errors
    ///
    /// The browser's failure; then a part may be typed.
    pub(crate) async fn type_text(&mut self, text: &str, between: Duration) -> Result<(), Problem> {
        for (n, letter) in text.chars().enumerate() {
            if n > 0 && !between.is_zero() {
                sleep(between).await;
            }
            let key = match letter {
                '\n' => Key::named("Return")?,
                '\t' => Key::named("Tab")?,
                letter => Key::typing(letter),
            };
            if key.is_on_a_keyboard() {
                self.key_down(&key).await?;
                self.key_up(&key).await?;
            } else {
                self.call("Input.insertText", json!({"text": letter})).await?;
            }
        }
        Ok(())
    }

    /// Presses a key. One that types does not, while Ctrl, Alt or Meta is held.
    ///
    /// # Errors
    ///
    /// The browser's failure.
    pub(crate) async fn key_down(&mut self, key: &Key) -> Result<(), Problem> {
        const SHIFT: u8 = 8;
        self.modifiers |= key.modifier;
        let types = key.text.as_ref().filter(|_| self.modifiers & !SHIFT == 0);
        let mut event = self.key_event(if types.is_some() { "keyDown" } else { "rawKeyDown" }, key);
        if let Some(text) = types {
            event["text"] = text.as_str().into();
        }
        self.call("Input.dispatchKeyEvent", event).await
    }

    /// Lets a key go.
    ///
    /// # Errors
    ///
    /// The browser's failure.
    pub(crate) async fn key_up(&mut self, key: &Key) -> Result<(), Problem> {
        self.modifiers &= !key.modifier;
        self.call("Input.dispatchKeyEvent", self.key_event("keyUp", key)).await
    }

    fn key_event(&self, kind: &str, key: &Key) -> Value {
        json!({"type": kind, "modifiers": self.modifiers, "key": key.meaning, "code": key.code,
            "windowsVirtualKeyCode": key.number})
    }

    async fn point(&self, kind: &str, at: (f64, f64), button: Option<Button>, count: u32) -> Result<(), Problem> {
        self.set(|mouse| (mouse.x, mouse.y) = at);
        let event = json!({"type": kind, "x": at.0, "y": at.1, "modifiers": self.modifiers, "clickCount": count,
            "button": button.map_or("none", Button::name), "buttons": self.mouse().buttons});
        self.call("Input.dispatchMouseEvent", event).await
    }

    /// The button that a mouse that moves holds, if it does.
    fn held(&self) -> Option<Button> {
        let buttons = self.mouse().buttons;
        [Button::Left, Button::Middle, Button::Right].into_iter().find(|button| buttons & button.bit() != 0)
    }

    fn place(&self) -> (f64, f64) {
        let mouse = self.mouse();
        (mouse.x, mouse.y)
    }

    fn mouse(&self) -> Mouse {
        *self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut Mouse)) {
        change(&mut self.desk.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn call(&self, method: &'static str, params: Value) -> Result<(), Problem> {
        let done = self.client.call(method, params, Some(&self.session)).await;
        done.map(drop).map_err(Problem::from)
    }
}

/// A time in milliseconds, of at most half a minute: who waits for the answer has no more patience.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`].
pub(crate) fn millis(name: &str, millis: u64) -> Result<Duration, Problem> {
    const MOST: u64 = 30_000;
    match millis {
        0..=MOST => Ok(Duration::from_millis(millis)),
        _ => Err(Problem::new(ErrorCode::RequestInvalid, format!("{name} is at most {MOST} milliseconds."))),
    }
}
