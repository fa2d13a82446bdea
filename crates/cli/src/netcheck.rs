//! `landfast netcheck`: one line for each leg between this machine and the agents, and what to do where one is broken.

use landfast_client::{Client, Health, Leg};
use serde::Serialize;

use crate::args::Netcheck;
use crate::failure::Failure;
use crate::print::{Paint, answer};

#[derive(Debug, Serialize)]
struct Report<'l> {
    /// Whether no leg is broken.
    ok: bool,
    legs: &'l [Leg],
}

/// Looks and prints. A leg that is broken is a failure, so that scripts hear of it.
///
/// # Errors
///
/// A leg is broken.
pub(crate) async fn netcheck(client: &Client, args: &Netcheck, paint: Paint) -> Result<(), Failure> {
    let legs = client.netcheck().await;
    let broken = legs.iter().filter(|leg| leg.health == Health::Broken).count();
    answer(args.output.format, &Report { ok: broken == 0, legs: &legs }, || describe(&legs, paint));
    match broken {
        0 => Ok(()),
        1 => Err(Failure::local("One leg is broken.")),
        many => Err(Failure::local(format!("{many} legs are broken."))),
    }
}

/// One line for each leg, and a second one where something is to be done.
pub(crate) fn describe<'l>(legs: impl IntoIterator<Item = &'l Leg>, paint: Paint) -> String {
    let legs: Vec<&Leg> = legs.into_iter().collect();
    let ends = |leg: &Leg| format!("{} → {}", leg.from, leg.to);
    let width = legs.iter().map(|leg| ends(leg).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for leg in legs {
        let word = match leg.health {
            Health::Ok => paint.good("ok    "),
            Health::Slow => paint.strong("slow  "),
            Health::Broken => paint.bad("broken"),
        };
        let took = leg.millis.map_or_else(String::new, |millis| format!("{millis:.1} ms"));
        let code = leg.code.map_or_else(String::new, |code| format!("{code}: "));
        text.push_str(&format!("{:<width$}  {word}  {took:>9}  {code}{}\n", ends(leg), leg.says));
        if !leg.advice.is_empty() {
            text.push_str(&format!("{:<width$}  {}\n", "", paint.faint(&leg.advice)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use landfast_core::{ErrorCode, Problem};

    use super::*;

    #[test]
    fn a_broken_leg_is_named_with_its_cause_and_what_to_do() {
        let broken =
            Leg::broken("client", "http://b", &Problem::new(ErrorCode::GatewayUnreachable, "It cannot be reached: x."));
        let text = describe(&[Leg::to_gateway("http://long", 1.26), broken], Paint::none());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "client → http://long  ok         1.3 ms  answers");
        assert_eq!(lines[1], "client → http://b     broken             gateway.unreachable: It cannot be reached: x.");
        assert_eq!(lines[2].trim(), ErrorCode::GatewayUnreachable.advice());
    }
}
