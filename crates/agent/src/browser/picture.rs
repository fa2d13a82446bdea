//! A picture of a page, for somebody who wants to see what it looks like now.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use landfast_core::{ErrorCode, Problem};
use serde::Deserialize;
use serde_json::{Value, json};

use super::DevTools;
use super::client::Client;
use super::pages::{attach, page};

/// The most pixels of a whole page that are drawn in either direction: Chromium's own bound for a surface.
const SIDE_MAX: f64 = 16_384.0;

/// What the picture is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    format: Format,
    /// Of a JPEG or WebP, in percent.
    quality: Option<u8>,
    /// All of the page, and not only what its window shows.
    is_full: bool,
    /// A part of it.
    region: Option<Region>,
    /// Which page; the one that was used last if none is named.
    target: Option<String>,
}

/// A part of a page, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Region {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    Webp,
}

/// A picture.
#[derive(Debug)]
pub(crate) struct Picture {
    /// Its media type.
    pub(crate) kind: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Wish {
    /// Reads what a query asks for; what is not ours in it may be meant for a hop before us.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`], naming the parameter.
    pub(crate) fn read(query: &str) -> Result<Self, Problem> {
        let mut wish = Self { format: Format::Png, quality: None, is_full: false, region: None, target: None };
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("format", "png")) => wish.format = Format::Png,
                Some(("format", "jpeg")) => wish.format = Format::Jpeg,
                Some(("format", "webp")) => wish.format = Format::Webp,
                Some(("format", other)) => {
                    return Err(invalid(format!("format is {other:.20?}; say png, jpeg or webp.")));
                }
                Some(("quality", number)) => wish.quality = Some(read_quality(number)?),
                Some(("full_page", "true")) => wish.is_full = true,
                Some(("full_page", "false")) => wish.is_full = false,
                Some(("full_page", other)) => {
                    return Err(invalid(format!("full_page is {other:.20?}; say true or false.")));
                }
                Some(("target", id)) => wish.target = Some(id.to_owned()),
                Some(_) | None => {}
            }
        }
        if wish.format == Format::Png && wish.quality.is_some() {
            return Err(invalid("A PNG has no quality; leave it out, or ask for format=jpeg.".to_owned()));
        }
        Ok(wish)
    }

    /// A PNG of what the window shows, or of a part of that.
    pub(crate) const fn of(region: Option<Region>) -> Self {
        Self { format: Format::Png, quality: None, is_full: false, region, target: None }
    }

    /// Takes the picture.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestNotFound`] if there is no such page, or the browser's failure.
    pub(crate) async fn take(&self, devtools: &DevTools) -> Result<Picture, Problem> {
        let page = page(devtools, self.target.as_deref()).await?;
        let (client, _events) = Client::connect(devtools).await?;
        let session = attach(&client, &page).await?;
        let mut how = json!({"format": self.format.name()});
        if let Some(quality) = self.quality {
            how["quality"] = quality.into();
        }
        if self.is_full {
            let layout = client.call("Page.getLayoutMetrics", json!({}), Some(&session)).await?;
            how["clip"] = whole(&layout["cssContentSize"]);
            how["captureBeyondViewport"] = true.into();
        }
        if let Some(Region { x, y, width, height }) = self.region {
            how["clip"] = json!({"x": x, "y": y, "width": width, "height": height, "scale": 1});
        }
        let taken = client.call("Page.captureScreenshot", how, Some(&session)).await?;
        let bytes = taken["data"].as_str().and_then(|data| STANDARD.decode(data).ok());
        let bytes = bytes.ok_or_else(|| Problem::new(ErrorCode::UpstreamLost, "The browser sent no picture."))?;
        Ok(Picture { kind: self.format.kind(), bytes })
    }
}

impl Format {
    const fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpeg",
            Self::Webp => "webp",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// Reads a quality in percent.
///
/// # Errors
///
/// [`ErrorCode::RequestInvalid`].
pub(super) fn read_quality(text: &str) -> Result<u8, Problem> {
    let quality = text.parse().ok().filter(|quality| (1..=100).contains(quality));
    quality.ok_or_else(|| invalid(format!("quality is {text:.20?}; say a number from 1 to 100.")))
}

fn whole(size: &Value) -> Value {
    let side = |name: &str| size[name].as_f64().unwrap_or(1.0).clamp(1.0, SIDE_MAX);
    json!({"x": 0, "y": 0, "width": side("width"), "height": side("height"), "scale": 1})
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_which_picture_and_one_that_cannot_be_is_refused() {
        let wish = Wish::read("format=jpeg&quality=80&full_page=true&target=T&other=x").unwrap();
        let expected =
            Wish { format: Format::Jpeg, quality: Some(80), is_full: true, region: None, target: Some("T".to_owned()) };
        assert_eq!(wish, expected);
        assert_eq!(Wish::read("").unwrap().format, Format::Png);
        for wrong in ["format=gif", "quality=0", "format=jpeg&quality=101", "full_page=yes", "quality=50"] {
            assert_eq!(Wish::read(wrong).unwrap_err().code, ErrorCode::RequestInvalid, "{wrong}");
        }
    }

    #[test]
    fn a_page_without_end_is_drawn_as_far_as_it_can_be() {
        let clip = whole(&json!({"width": 800, "height": 1e9}));
        assert_eq!((clip["width"].as_f64(), clip["height"].as_f64()), (Some(800.0), Some(SIDE_MAX)));
    }
}
