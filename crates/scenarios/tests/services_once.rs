//! Nothing runs twice: a service counts what it has run, and every connection between the gateway and it is reset at every
//! byte of request and answer.

use landfast_scenarios::cell::Cell;
use landfast_scenarios::fault_relay::{Direction, FaultRelay};
use landfast_scenarios::http::{self, Answer};
use landfast_scenarios::plain::Event;
use landfast_scenarios::served::{Elsewhere, Served};

/// Far more bytes than a small request and its answer take on any way: a search that has not ended there never would.
const MOST: usize = 5_000;

/// Has `request` made again and again, each time with a reset one byte later, until none comes any more. What came of each
/// is looked at by `check`, while the network does no harm.
async fn at_every_byte<T>(
    network: &FaultRelay,
    direction: Direction,
    request: impl AsyncFnMut(usize) -> T,
    check: impl AsyncFnMut(usize, T),
) {
    at_bytes(network, direction, 1, request, check).await;
}

/// The same at every `step`th byte.
async fn at_bytes<T>(
    network: &FaultRelay,
    direction: Direction,
    step: usize,
    mut request: impl AsyncFnMut(usize) -> T,
    mut check: impl AsyncFnMut(usize, T),
) {
    for byte in (0..MOST).step_by(step) {
        network.cut_after(direction, byte);
        let came = request(byte).await;
        let is_last = network.lets_all_pass();
        check(byte, came).await;
        if is_last {
            assert!(byte > 30, "a request and its answer are longer than {byte} bytes");
            return;
        }
    }
    panic!("after {MOST} bytes there is still something to cut");
}

#[tokio::test]
async fn a_post_runs_once_or_not_at_all_wherever_its_link_is_reset() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    let whole = posts_at_every_byte(&cell.node_ref("a").network, &served).await;
    // A session that lies idle while its links are reset again and again is given up, and may just have been chosen.
    assert!(whole.answered > 9 * whole.refused && whole.cut == 0, "{whole:?}");
}

#[tokio::test]
async fn a_post_to_a_server_elsewhere_runs_once_or_not_at_all_wherever_its_connection_is_reset() {
    let (_cell, _server, network, served) = elsewhere().await;
    let came = posts_at_every_byte(&network, &served).await;
    // The kind of end tells how far it came: upward nothing was answered, downward it ran.
    assert!(came.refused > 0 && came.cut > 0, "{came:?}");
}

/// What came of many requests.
#[derive(Debug, Default)]
struct Came {
    answered: usize,
    refused: usize,
    cut: usize,
}

/// Posts at every byte: what was answered has run once, and nothing has run twice.
async fn posts_at_every_byte(network: &FaultRelay, served: &Served) -> Came {
    let mut came = Came::default();
    for direction in [Direction::Up, Direction::Down] {
        let key = |byte| format!("{direction:?}-{byte}");
        let post = async |byte| {
            let request = served.request("POST", &format!("/count/{}", key(byte)), "", "small");
            http::try_send(served.instance.operator.address, &request).await
        };
        at_every_byte(network, direction, post, async |byte, answer| {
            let (key, runs) = (key(byte), served.count(&key(byte)).await);
            match answer {
                Some(answer) if answer.status == 200 => {
                    assert_eq!((counted(&answer), runs), (1, 1), "{key}");
                    came.answered += 1;
                }
                Some(answer) => {
                    assert_eq!(answer.refusal(), (502, "upstream.lost".to_owned()), "{key}");
                    assert!(runs <= 1, "{key} has run {runs} times");
                    came.refused += 1;
                }
                // The answer had begun, and was cut for all to see.
                None => {
                    assert_eq!((direction, runs), (Direction::Down, 1), "{key}");
                    came.cut += 1;
                }
            }
        })
        .await;
    }
    came
}

#[tokio::test]
async fn an_upgrade_whose_link_is_reset_at_some_byte_is_an_upgrade_all_the_same() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    for direction in [Direction::Up, Direction::Down] {
        let echo = async |byte| {
            let opened = served.opens("/socket").await;
            let mut socket = opened.unwrap_or_else(|answer| panic!("{direction:?} {byte}: {answer:?}"));
            socket.send_text("hello").await;
            socket.next().await
        };
        // Each costs a redial or two: some dozen tell as much as all.
        at_bytes(&cell.node_ref("a").network, direction, 11, echo, async |byte, heard| {
            assert_eq!(heard, Event::Text("hello".to_owned()), "{direction:?} {byte}");
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_safe_to_repeat_is_answered_wherever_its_connection_is_reset() {
    let (_cell, _server, network, served) = elsewhere().await;
    for (method, lines) in [("GET", ""), ("POST", "Idempotency-Key: k\r\n")] {
        for direction in [Direction::Up, Direction::Down] {
            let ask = async |_| {
                let request = served.request(method, "/safe", lines, "");
                http::try_send(served.instance.operator.address, &request).await
            };
            // Each is tried again after a pause: some dozen tell as much as all.
            at_bytes(&network, direction, 7, ask, async |byte, answer| match answer {
                Some(answer) => assert_eq!(answer.status, 200, "{method} {direction:?} {byte}: {answer:?}"),
                // The answer had begun: it ran, and is not asked for again.
                None => assert_eq!(direction, Direction::Down, "{method} {byte}"),
            })
            .await;
        }
    }
}

async fn elsewhere() -> (Cell, Elsewhere, FaultRelay, Served) {
    let cell = Cell::start().await;
    let server = Elsewhere::start().await;
    let network = FaultRelay::start().await.expect("a free port");
    network.lead_to(server.address);
    let served = Served::elsewhere(&cell, network.address()).await;
    (cell, server, network, served)
}

fn counted(answer: &Answer) -> u64 {
    String::from_utf8_lossy(&answer.body).parse().expect("the service answers with a number")
}
