//! Gateways whose way to the registry stutters and breaks: no request is served by a generation that is over, and once the way is
//! whole again they know what the registry knows.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use landfast_rig::Cluster;
use landfast_scenarios::cell::{Cell, Plan, eventually};
use landfast_scenarios::fault_relay::FaultRelay;
use landfast_scenarios::http::{self, Answer};
use landfast_scenarios::instance::Instance;
use landfast_scenarios::role::{Role, Settings};
use landfast_scenarios::seed::seed;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// For how long the ways fail.
const FAULTS: Duration = Duration::from_secs(20);

/// Which share of what the registry says comes late, and how late at most.
const LATE: f64 = 0.05;
const LATE_BY: Duration = Duration::from_secs(2);

/// What a gateway may say of an instance that is elsewhere by now, or about to be, while nobody tells it where.
const HONEST: [&str; 4] = ["instance.moving", "node.not_here", "node.stale_generation", "registry.unavailable"];

/// A gateway, and its ways to the members of the registry.
struct Blinking {
    gateway: Role,
    ways: Vec<FaultRelay>,
}

impl Blinking {
    async fn start(cell: &Cell, name: &str, seed: u64) -> Self {
        let members = cell.etcd.as_ref().map(Cluster::clients).expect("a cell over etcd");
        let ways = join_all(members.into_iter().map(async |member| {
            let way = FaultRelay::start().await.expect("a free port");
            way.lead_to(member);
            way.stutter(seed, LATE, LATE_BY);
            way
        }))
        .await;
        let store = landfast_rig::address(ways.iter().map(FaultRelay::address));
        let settings = Settings::from([("store", store), ("listen", "127.0.0.1:0".to_owned())]);
        Self { gateway: Role::start("gateway", name, cell.dir(), settings).await, ways }
    }

    /// Cuts connections, all or one, or holds all for a while.
    async fn blinks(&self, mut random: SmallRng, until: Instant) {
        while Instant::now() < until {
            sleep(Duration::from_millis(random.random_range(100..1_500))).await;
            let way = &self.ways[random.random_range(0..self.ways.len())];
            match random.random_range(0..4) {
                0 => drop(way.cut_one(&mut random)),
                1 => way.cut(),
                2 => self.ways.iter().for_each(FaultRelay::cut),
                _ => {
                    self.ways.iter().for_each(FaultRelay::hold);
                    sleep(Duration::from_millis(random.random_range(0..2_500))).await;
                    self.ways.iter().for_each(FaultRelay::release);
                }
            }
        }
        for way in &self.ways {
            way.stutters_no_more();
            way.cut();
        }
    }
}

#[tokio::test]
async fn a_way_to_the_registry_that_stutters_and_breaks_leaves_no_stale_route_and_serves_no_old_generation() {
    let seed = seed();
    let mut cell = Plan::default().over_etcd(3).start().await;
    cell.add_node("b", Settings::new()).await;
    let gateways =
        join_all([("1", seed), ("2", seed + 1)].map(|(name, seed)| Blinking::start(&cell, name, seed))).await;
    let mut instances = Vec::new();
    let mut places = Vec::new();
    for _ in 0..6 {
        let instance = cell.create().await;
        places.push(cell.place_of(&instance).await);
        instances.push(instance);
    }
    // Of the others the gateways hear by their watch alone.
    let asked = &instances[..4];
    let until = Instant::now() + FAULTS;
    let luck = |number: u64| SmallRng::seed_from_u64(seed + 10 + number);
    let blinking = gateways.iter().zip(0..).map(|(gateway, number)| gateway.blinks(luck(number), until));
    let moving = instances.iter().zip(&places).zip(10..);
    let moving = moving.map(|((instance, place), number)| wanders(instance, *place, luck(number), until));
    let asking = asked.iter().flat_map(|instance| gateways.iter().map(move |gateway| (instance, gateway)));
    let asking = asking.map(|(instance, gateway)| is_served(instance, gateway.gateway.address(), until));
    let (_, moves, served) = tokio::join!(join_all(blinking), join_all(moving), join_all(asking));
    println!("moves {moves:?}, answers {served:?}");
    assert!(moves.iter().all(|moves| *moves > 0) && served.iter().all(|served| *served > 0));
    for instance in &instances {
        let record = instance.record().await;
        for gateway in &gateways {
            eventually("the gateway knows where it is", async || knows(gateway, instance, &record).await.then_some(()))
                .await;
        }
    }
    // Nothing changes any more, so that no change tells it.
    for gateway in &gateways {
        gateway.ways.iter().for_each(FaultRelay::cut);
        let broken = async || (watch_age(gateway).await != "0").then_some(());
        eventually("the gateway sees that its watch is broken", broken).await;
        let whole = async || (watch_age(gateway).await == "0").then_some(());
        eventually("the gateway hears the registry", whole).await;
    }
}

/// For how long a gateway has not heard the registry.
async fn watch_age(gateway: &Blinking) -> String {
    let ready = http::ask(gateway.gateway.address(), "GET", "/readyz", None, None).await;
    ready.header("landfast-watch-age-ms").unwrap_or_default().to_owned()
}

/// Moves an instance to and fro, and says how often.
async fn wanders(instance: &Instance, place: (&str, &str), mut random: SmallRng, until: Instant) -> usize {
    let (here, there) = place;
    for moves in 0.. {
        if Instant::now() > until {
            return moves;
        }
        instance.moves_to([there, here][moves % 2]).await;
        sleep(Duration::from_millis(random.random_range(0..1_000))).await;
    }
    unreachable!("numbers do not end")
}

/// Asks again and again; whoever answers must not be of a generation that was over when it was asked. Says how often it was
/// answered.
async fn is_served(instance: &Instance, gateway: SocketAddr, until: Instant) -> usize {
    let mut answered = 0;
    while Instant::now() < until {
        let before = generation(&instance.record().await);
        let answer = ask(gateway, instance).await;
        if answer.status == 200 {
            answered += 1;
            let by = answer.header("landfast-generation").and_then(|by| by.parse::<u64>().ok());
            assert!(by >= Some(before), "{before} was there, and {by:?} answered: {answer:?}");
        } else {
            let code = answer.header("landfast-error").unwrap_or_default();
            assert!(HONEST.contains(&code), "{answer:?}");
        }
    }
    answered
}

/// Whether a gateway finds an instance at once where its record says.
async fn knows(gateway: &Blinking, instance: &Instance, record: &Value) -> bool {
    let answer = ask(gateway.gateway.address(), instance).await;
    let (attempts, by) = (answer.header("landfast-attempts"), answer.header("landfast-generation"));
    answer.status == 200 && attempts == Some("1") && by == Some(&generation(record).to_string())
}

fn generation(record: &Value) -> u64 {
    record["generation"].as_u64().expect("a record has a generation")
}

async fn ask(gateway: SocketAddr, instance: &Instance) -> Answer {
    let Instance { id, token, .. } = instance;
    let request = format!(
        "GET /i/{id}/processes HTTP/1.1\r\nHost: {gateway}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    );
    http::send(gateway, request.as_bytes()).await
}
