//! The verbs that look: what happens in an instance, and what its services say.

use std::io::{self, IsTerminal as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use landfast_client::{Client, EventGap, EventPage, Exit, OutputPiece, Said, Since, Stream};
use landfast_core::ServiceName;
use serde_json::json;

use crate::args::{Events, Format, Logs};
use crate::failure::Failure;
use crate::print::{Paint, line};

/// The service whose output is shown if none is named, although there are others: what a browser is for.
const BROWSER: &str = "chromium";

/// How many events a page has.
const PAGE: usize = 1_000;

/// `landfast events`.
///
/// # Errors
///
/// The cell's refusal.
pub(crate) async fn events(client: &Client, args: &Events, paint: Paint) -> Result<(), Failure> {
    if !args.follow && args.from.is_none() {
        return print_stored(client, args, paint).await;
    }
    let since =
        args.from.clone().map_or(Since::Now, |from| if from == "start" { Since::Oldest } else { Since::Id(from) });
    let mut events = client.events(args.id, &args.kinds, since);
    loop {
        print_said(&events.next().await?, args.output.format, paint);
    }
}

/// Everything that was stored, page by page.
async fn print_stored(client: &Client, args: &Events, paint: Paint) -> Result<(), Failure> {
    let kinds = if args.kinds.is_empty() { String::new() } else { format!("&type={}", args.kinds.join(",")) };
    let mut offset = "0".to_owned();
    loop {
        let query = format!("limit={PAGE}&offset={offset}{kinds}");
        let EventPage { items, next } = client.event_page(args.id, &query).await?;
        items.iter().for_each(|said| print_said(said, args.output.format, paint));
        let Some(next) = next else { return Ok(()) };
        offset = next;
    }
}

/// One line each: for programs the JSON as it came.
fn print_said(said: &Said, format: Format, paint: Paint) {
    let text = match format {
        Format::Json => serde_json::to_string(said).expect("what was read can be written"),
        Format::Text => text_of(said, paint),
    };
    line(&format!("{text}\n"));
}

fn text_of(said: &Said, paint: Paint) -> String {
    match said {
        Said::Event(envelope) => {
            let event = &envelope.event;
            let time = time_of_day(event.ts);
            let data = event.data.as_ref().map(ToString::to_string).unwrap_or_default();
            let cut = if event.truncated { " (too large)" } else { "" };
            format!("{}  {}  {data}{cut}", paint.faint(&time), paint.strong(&event.kind)).trim_end().to_owned()
        }
        Said::Gap(EventGap { from, to, .. }) => paint.bad(&format!("events are missing from {from} to {to}")),
    }
}

/// The time in UTC, to the millisecond.
fn time_of_day(micros: u64) -> String {
    let (seconds, millis) = (micros / 1_000_000, micros / 1_000 % 1_000);
    format!("{:02}:{:02}:{:02}.{millis:03}Z", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

/// `landfast logs`.
///
/// # Errors
///
/// The cell's refusal, or that there is more than one service and none was named.
pub(crate) async fn logs(client: &Client, args: &Logs, hints: Paint) -> Result<(), Failure> {
    let name = match args.service {
        Some(name) => name,
        None => only_service(client, args).await?,
    };
    let mut output = client.service_output(args.id, name, args.from, args.follow);
    while let Some(piece) = output.next().await? {
        match args.output.format {
            Format::Json => line(&format!("{}\n", json_of(&piece))),
            Format::Text => show(&piece, hints),
        }
    }
    Ok(())
}

async fn only_service(client: &Client, args: &Logs) -> Result<ServiceName, Failure> {
    let names: Vec<ServiceName> = client.services(args.id).await?.into_iter().map(|service| service.name).collect();
    let browser = names.iter().find(|name| name.as_str() == BROWSER);
    match (&names[..], browser) {
        ([name], _) | (_, Some(name)) => Ok(*name),
        ([], None) => Err(Failure::usage(format!("{} has no services.", args.id))),
        (_, None) => {
            let names: Vec<&str> = names.iter().map(ServiceName::as_str).collect();
            Err(Failure::usage(format!("{} has several services; name one of {}.", args.id, names.join(", "))))
        }
    }
}

/// Bytes go where they went; what is said about them, to standard error.
fn show(piece: &OutputPiece, hints: Paint) {
    match piece {
        OutputPiece::Data { stream: Stream::Stdout, bytes, .. } => write(&mut io::stdout().lock(), bytes),
        OutputPiece::Data { stream: Stream::Stderr, bytes, .. } => write(&mut io::stderr().lock(), bytes),
        OutputPiece::Gap { from, to } => {
            hint(&hints.bad(&format!("the bytes from {from} to {to} are not kept any more")));
        }
        OutputPiece::Exit(exit) if io::stderr().is_terminal() => hint(&hints.faint(&exit_text(*exit))),
        OutputPiece::Exit(_) => {}
    }
}

fn exit_text(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("it exited with {code}"),
        Exit::Signal(signal) => format!("it was killed by signal {signal}"),
    }
}

/// A reader that has gone, as `head` does, is nobody's failure.
fn write(to: &mut impl io::Write, bytes: &[u8]) {
    let _ = to.write_all(bytes).and_then(|()| to.flush());
}

fn hint(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn json_of(piece: &OutputPiece) -> serde_json::Value {
    match piece {
        OutputPiece::Data { stream, offset, bytes } => {
            let stream = match stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
            };
            match std::str::from_utf8(bytes) {
                Ok(text) => json!({"stream": stream, "offset": offset, "text": text}),
                Err(_) => json!({"stream": stream, "offset": offset, "base64": STANDARD.encode(bytes)}),
            }
        }
        OutputPiece::Gap { from, to } => json!({"gap": {"from": from, "to": to}}),
        OutputPiece::Exit(exit) => json!({"exit": exit}),
    }
}

#[cfg(test)]
mod tests {
    use landfast_core::event::{Envelope, Event};

    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_time_its_type_and_what_is_known() {
        let event = Event::new("process_exit", 3_723_004_000).with_data(json!({"code": 0}));
        let said = Said::Event(Envelope { seq: 1, event });
        assert_eq!(text_of(&said, Paint::none()), "01:02:03.004Z  process_exit  {\"code\":0}");
        let gap = EventGap { kind: "gap".to_owned(), from: "1.2".to_owned(), to: "1.9".to_owned() };
        assert_eq!(text_of(&Said::Gap(gap), Paint::none()), "events are missing from 1.2 to 1.9");
    }

    #[test]
    fn output_that_is_no_text_is_base64_for_programs() {
        let piece = |bytes: &'static [u8]| OutputPiece::Data { stream: Stream::Stdout, offset: 3, bytes: bytes.into() };
        assert_eq!(json_of(&piece(b"a")), json!({"stream": "stdout", "offset": 3, "text": "a"}));
        assert_eq!(json_of(&piece(b"\xff")), json!({"stream": "stdout", "offset": 3, "base64": "/w=="}));
    }
}
