//! Steady traffic to a service: requests and WebSockets of many clients, none of which may fail, whatever goes on.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::http;
use crate::plain::Event;
use crate::served::Served;

/// How long each WebSocket rests between two messages.
const REST: Duration = Duration::from_millis(100);

/// How much traffic.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Requests a second, every other a POST.
    pub requests: u32,
    /// Open WebSockets, each with an echo under way ten times a second.
    pub sockets: usize,
}

/// What has flowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flowed {
    /// Requests that were answered.
    pub requests: usize,
    /// Messages that came back.
    pub messages: usize,
    /// The longest that one of either took.
    pub slowest: Duration,
}

/// Lets traffic flow while `event` goes on.
///
/// # Panics
///
/// A request is not answered with 200 or has not run once, or a WebSocket ends or says something else.
pub async fn flows(served: &Served, amount: Amount, event: impl Future<Output = ()>) -> Flowed {
    let (over, stop) = watch::channel(false);
    let mut clients = JoinSet::new();
    for number in 0..amount.sockets {
        clients.spawn(echoes(served.clone(), number, stop.clone()));
    }
    clients.spawn(requests(served.clone(), amount.requests, stop));
    event.await;
    over.send_replace(true);
    let mut flowed = Flowed::default();
    while let Some(client) = clients.join_next().await {
        let client = client.expect("no client fails");
        flowed.requests += client.requests;
        flowed.messages += client.messages;
        flowed.slowest = flowed.slowest.max(client.slowest);
    }
    flowed
}

async fn echoes(served: Served, number: usize, stop: watch::Receiver<bool>) -> Flowed {
    let mut socket = served.opens("/echo").await.unwrap_or_else(|answer| panic!("socket {number}: {answer:?}"));
    let mut flowed = Flowed::default();
    while !*stop.borrow() {
        let text = format!("socket {number}, message {}", flowed.messages);
        let began = Instant::now();
        socket.send_text(&text).await;
        loop {
            match socket.next().await {
                Event::Ping => {}
                event => break assert_eq!(event, Event::Text(text)),
            }
        }
        flowed.messages += 1;
        flowed.slowest = flowed.slowest.max(began.elapsed());
        sleep(REST).await;
    }
    flowed
}

async fn requests(served: Served, rate: u32, stop: watch::Receiver<bool>) -> Flowed {
    let mut turns = interval(Duration::from_secs(1) / rate);
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut under_way, mut flowed) = (JoinSet::new(), Flowed::default());
    while !*stop.borrow() {
        turns.tick().await;
        under_way.spawn(request(served.clone(), flowed.requests));
        flowed.requests += 1;
        while let Some(took) = under_way.try_join_next() {
            flowed.slowest = flowed.slowest.max(took.expect("no request fails"));
        }
    }
    while let Some(took) = under_way.join_next().await {
        flowed.slowest = flowed.slowest.max(took.expect("no request fails"));
    }
    flowed
}

/// A request, and how long it took.
async fn request(served: Served, number: usize) -> Duration {
    let began = Instant::now();
    let (method, target, expected) = if number.is_multiple_of(2) {
        ("GET", format!("/{number}"), format!("GET /{number} "))
    } else {
        ("POST", format!("/count/{number}"), "1".to_owned())
    };
    let bytes = served.request(method, &target, "", "");
    let answer = http::try_send(served.instance.operator.address, &bytes).await;
    let answer = answer.unwrap_or_else(|| panic!("{method} {target}: its answer was cut"));
    assert_eq!((answer.status, String::from_utf8_lossy(&answer.body)), (200, expected.into()), "{method} {target}");
    began.elapsed()
}
