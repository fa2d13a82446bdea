//! A port of the client's machine that leads into an instance: programs that know nothing of Landfast keep their
//! connections over everything in between.

use landfast_scenarios::cell::Cell;
use landfast_scenarios::forwarded::Forwarded;
use landfast_scenarios::plain::{Event, PlainClient, Upgrade};
use landfast_scenarios::role::Settings;
use landfast_scenarios::served::{NAME, Served};

#[tokio::test]
async fn a_forwarded_connection_outlives_the_gateway_the_node_and_a_move() {
    let mut cell = Cell::start().await;
    cell.add_node("b", Settings::new()).await;
    let served = Served::start(&cell).await;
    let forwarded = Forwarded::start(&served.instance, NAME).await;
    let target = "/".to_owned();
    let upgrade = Upgrade { address: forwarded.address, target, token: None, subprotocol: None, receive_buffer: None };
    let mut client = PlainClient::open(&upgrade).await.expect("an echo");
    for what in ["nothing", "a cut", "a gateway", "a node", "a move"] {
        match what {
            "nothing" => {}
            "a cut" => cell.cut_links(),
            "a gateway" => {
                cell.gateway.restart().await;
                cell.downstream.lead_to(cell.gateway.address());
            }
            "a node" => cell.nodes[0].restart().await,
            _ => served.instance.moves_to("b").await,
        }
        client.send_text(what).await;
        assert_eq!(client.next().await, Event::Text(what.to_owned()));
    }
}

#[tokio::test]
async fn what_does_not_exist_ends_a_forwarded_connection_at_once() {
    let cell = Cell::start().await;
    let served = Served::start(&cell).await;
    let forwarded = Forwarded::start(&served.instance, "other").await;
    let mut socket = tokio::net::TcpStream::connect(forwarded.address).await.unwrap();
    let read = tokio::io::AsyncReadExt::read(&mut socket, &mut [0]).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}
