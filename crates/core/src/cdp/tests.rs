//! The table of ends, row by row; then every order of what can happen at once; then seeds.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::*;

const fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn up(start: u64) -> News {
    News::Up { start, url: format!("ws://127.0.0.1:9/devtools/browser/{start}") }
}

const fn down(start: u64, why: Why) -> News {
    News::Down { start, why }
}

fn drain(connection: &mut Connection, now: Instant) -> Vec<Effect> {
    let effects: Vec<_> = std::iter::from_fn(|| connection.poll(now)).collect();
    assert!(connection.next_deadline().is_none_or(|due| due > now), "it would spin: {connection:?}");
    effects
}

/// A connection that a client asks for at the clock's zero, of which this is known.
fn asked(news: Option<News>) -> Connection {
    let mut connection = Connection::new(at(0), START_BUDGET);
    news.into_iter().for_each(|news| connection.handle_news(news));
    connection
}

/// A connection that carries bytes to the first start.
fn carrying() -> Connection {
    let mut connection = asked(Some(up(1)));
    assert_eq!(drain(&mut connection, at(0)), [dial(1)]);
    connection.handle_dialled(1);
    assert_eq!(drain(&mut connection, at(0)), [Effect::Announce]);
    assert!(connection.is_carrying() && connection.next_deadline().is_none());
    connection
}

fn dial(start: u64) -> Effect {
    let News::Up { start, url } = up(start) else { unreachable!() };
    Effect::Dial { start, url }
}

fn told(reason: Reason, millis: u64) -> Effect {
    Effect::Attribute(Disconnect { reason, at: at(millis) })
}

fn closing(code: ErrorCode) -> Vec<Effect> {
    vec![Effect::CloseClient(code), Effect::CloseUpstream]
}

fn and(mut effects: Vec<Effect>, more: Effect) -> Vec<Effect> {
    effects.push(more);
    effects
}

// --- the table ---

#[test]
fn row_1_a_client_that_closes_is_the_reason_at_once() {
    let mut connection = carrying();
    connection.handle_client_ended(at(5));
    assert_eq!(drain(&mut connection, at(5)), [Effect::CloseUpstream, told(Reason::ClientClose, 5)]);
    assert!(connection.is_over());
}

#[test]
fn row_2_a_cancellation_wins_over_any_other_cause() {
    let mut connection = carrying();
    connection.handle_client_ended(at(5));
    connection.handle_upstream_ended(Fate::Returns, at(5));
    connection.handle_news(up(2));
    connection.handle_cancelled(at(5));
    assert_eq!(drain(&mut connection, at(5)), [Effect::CloseUpstream, told(Reason::ContextCancelled, 5)]);
    // Also while the reason is still being looked for.
    let mut connection = carrying();
    connection.handle_upstream_ended(Fate::Returns, at(5));
    assert_eq!(drain(&mut connection, at(5)), closing(ErrorCode::UpstreamChanged));
    connection.handle_cancelled(at(900));
    assert_eq!(drain(&mut connection, at(900)), [told(Reason::ContextCancelled, 5)]);
}

#[test]
fn row_3_a_death_that_is_followed_by_a_start_within_ten_seconds_was_a_change() {
    let mut connection = carrying();
    connection.handle_upstream_ended(Fate::Returns, at(5));
    assert_eq!(drain(&mut connection, at(5)), closing(ErrorCode::UpstreamChanged));
    for (news, millis) in [(down(1, Why::Returns), 30), (News::Starting { start: 2 }, 130)] {
        connection.handle_news(news);
        assert_eq!(drain(&mut connection, at(millis)), []);
    }
    connection.handle_news(up(2));
    assert_eq!(drain(&mut connection, at(10_004)), [told(Reason::UpstreamChanged, 5)]);
}

#[test]
fn row_4_a_death_that_nothing_follows_within_ten_seconds_was_an_error() {
    let mut connection = carrying();
    connection.handle_upstream_ended(Fate::Returns, at(5));
    drain(&mut connection, at(5));
    connection.handle_news(News::Starting { start: 2 });
    assert_eq!(drain(&mut connection, at(10_004)), []);
    assert_eq!(connection.next_deadline(), Some(at(10_005)));
    assert_eq!(drain(&mut connection, at(10_005)), [told(Reason::UpstreamError, 5)]);
    connection.handle_news(up(2));
    assert_eq!(drain(&mut connection, at(10_006)), [], "it was told once");
}

#[test]
fn row_4_a_browser_that_is_given_up_is_an_error_at_once() {
    for why in [Why::GaveUp, Why::Stopped] {
        let mut connection = carrying();
        connection.handle_upstream_ended(Fate::Ends, at(5));
        assert_eq!(drain(&mut connection, at(5)), closing(ErrorCode::UpstreamLost));
        connection.handle_news(down(1, why));
        assert_eq!(drain(&mut connection, at(40)), [told(Reason::UpstreamError, 5)]);
        // By the news alone.
        let mut connection = carrying();
        connection.handle_news(down(1, why));
        let all = and(closing(ErrorCode::UpstreamLost), told(Reason::UpstreamError, 5));
        assert_eq!(drain(&mut connection, at(5)), all);
    }
}

#[test]
fn row_4_a_connection_that_is_lost_while_its_browser_lives_was_an_error() {
    let mut connection = carrying();
    connection.handle_upstream_ended(Fate::Lives, at(5));
    assert_eq!((drain(&mut connection, at(5)), connection.next_deadline()), (vec![], Some(at(1_005))));
    assert_eq!(drain(&mut connection, at(1_005)), closing(ErrorCode::UpstreamLost));
    assert_eq!(drain(&mut connection, at(10_005)), [told(Reason::UpstreamError, 5)]);
    // Who leaves meanwhile was not the first.
    let mut connection = carrying();
    connection.handle_upstream_ended(Fate::Lives, at(5));
    drain(&mut connection, at(5));
    connection.handle_client_ended(at(6));
    assert_eq!(drain(&mut connection, at(6)), closing(ErrorCode::UpstreamLost));
    assert_eq!(drain(&mut connection, at(10_005)), [told(Reason::UpstreamError, 5)]);
}

#[test]
fn row_3_a_browser_that_ends_in_good_order_closes_its_connections_before_it_is_known_to() {
    let mut connection = carrying();
    connection.handle_upstream_ended(Fate::Lives, at(5));
    drain(&mut connection, at(5));
    connection.handle_news(down(1, Why::Returns));
    assert_eq!(drain(&mut connection, at(120)), closing(ErrorCode::UpstreamChanged));
    connection.handle_news(up(2));
    assert_eq!(drain(&mut connection, at(700)), [told(Reason::UpstreamChanged, 5)]);
}

#[test]
fn row_5_a_changed_url_ends_the_old_connection_although_it_lives() {
    let moved = News::Up { start: 1, url: "ws://127.0.0.1:10/devtools/browser/1".to_owned() };
    for news in [up(2), moved] {
        let mut connection = carrying();
        connection.handle_news(news);
        let all = and(closing(ErrorCode::UpstreamChanged), told(Reason::UpstreamChanged, 7));
        assert_eq!(drain(&mut connection, at(7)), all);
    }
}

#[test]
fn row_5_a_browser_that_is_being_started_anew_ends_the_old_connection_before_it_dies() {
    let mut connection = carrying();
    connection.handle_news(down(1, Why::Returns));
    assert_eq!(drain(&mut connection, at(7)), closing(ErrorCode::UpstreamChanged));
    connection.handle_upstream_ended(Fate::Returns, at(50));
    connection.handle_client_ended(at(60));
    assert_eq!(drain(&mut connection, at(60)), []);
    connection.handle_news(up(2));
    assert_eq!(drain(&mut connection, at(500)), [told(Reason::UpstreamChanged, 7)]);
}

#[test]
fn row_6_a_death_and_a_change_are_a_change_in_any_order() {
    let death: fn(&mut Connection) = |connection| connection.handle_upstream_ended(Fate::Returns, at(5));
    let change: fn(&mut Connection) = |connection| connection.handle_news(up(2));
    let all = and(closing(ErrorCode::UpstreamChanged), told(Reason::UpstreamChanged, 5));
    for facts in [[death, change], [change, death]] {
        let mut together = carrying();
        facts.iter().for_each(|fact| fact(&mut together));
        assert_eq!(drain(&mut together, at(5)), all);
        let (mut apart, mut effects) = (carrying(), Vec::new());
        for fact in facts {
            fact(&mut apart);
            effects.extend(drain(&mut apart, at(5)));
        }
        assert_eq!(effects, all);
    }
}

#[test]
fn row_7_a_change_and_a_cancellation_are_a_cancellation_in_any_order() {
    let cancel: fn(&mut Connection) = |connection| connection.handle_cancelled(at(5));
    let change: fn(&mut Connection) = |connection| connection.handle_news(up(2));
    for facts in [[cancel, change], [change, cancel]] {
        let mut connection = carrying();
        facts.iter().for_each(|fact| fact(&mut connection));
        assert_eq!(drain(&mut connection, at(5)), [Effect::CloseUpstream, told(Reason::ContextCancelled, 5)]);
    }
}

#[test]
fn rows_8_and_9_the_same_url_again_or_none_changes_nothing() {
    let empty = |start| News::Up { start, url: String::new() };
    for news in [up(1), empty(1), empty(2), News::Starting { start: 1 }, up(0), down(0, Why::GaveUp)] {
        let mut connection = carrying();
        let before = connection.clone();
        connection.handle_news(news);
        assert_eq!(drain(&mut connection, at(5)), []);
        assert_eq!(connection, before);
    }
}

#[test]
fn row_10_a_dial_that_fails_is_repeated_until_the_browser_is_given_up() {
    let mut connection = asked(Some(up(1)));
    assert_eq!(drain(&mut connection, at(0)), [dial(1)]);
    let (mut now, mut pauses) = (at(0), Vec::new());
    for _ in 0..7 {
        connection.handle_dial_failed(1);
        assert_eq!(drain(&mut connection, now), []);
        let due = connection.next_deadline().unwrap();
        pauses.push(due.since(now).as_millis());
        now = due;
        assert_eq!(drain(&mut connection, now), [dial(1)]);
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 250, 250]);
    connection.handle_news(down(1, Why::GaveUp));
    let Disconnect { reason, at } = Disconnect { reason: Reason::UpstreamError, at: now };
    let last = [
        Effect::Refuse(ErrorCode::BrowserDown),
        Effect::CloseUpstream,
        Effect::Announce,
        Effect::Attribute(Disconnect { reason, at }),
    ];
    assert_eq!(drain(&mut connection, now), last);
}

#[test]
fn row_10_a_dial_that_fails_for_too_long_is_given_up() {
    let mut connection = asked(Some(up(1)));
    drain(&mut connection, at(0));
    connection.handle_dial_failed(1);
    drain(&mut connection, at(0));
    let effects = drain(&mut connection, at(90_000));
    assert_eq!(effects[0], Effect::Refuse(ErrorCode::InstanceStarting));
    assert_eq!(effects[2..], [Effect::Announce, told(Reason::UpstreamError, 90_000)]);
}

#[test]
fn row_11_a_cancellation_while_dialling_is_told() {
    for (end, reason) in [
        (Connection::handle_cancelled as fn(&mut Connection, Instant), Reason::ContextCancelled),
        (Connection::handle_client_ended, Reason::ClientClose),
    ] {
        let mut connection = asked(Some(up(1)));
        drain(&mut connection, at(0));
        end(&mut connection, at(3));
        assert_eq!(drain(&mut connection, at(3)), [Effect::CloseUpstream, Effect::Announce, told(reason, 3)]);
    }
}

#[test]
fn row_12_a_dial_goes_on_with_the_newer_url_which_is_compared_from_then_on() {
    let mut connection = asked(Some(up(1)));
    drain(&mut connection, at(0));
    connection.handle_dial_failed(1);
    drain(&mut connection, at(0));
    connection.handle_news(News::Starting { start: 2 });
    assert_eq!(drain(&mut connection, at(1)), [Effect::CloseUpstream], "it is known to be over");
    connection.handle_news(up(2));
    assert_eq!(drain(&mut connection, at(300)), [dial(2)], "no pause is waited for");
    connection.handle_dialled(1);
    assert_eq!(drain(&mut connection, at(300)), [], "of a start that is over");
    connection.handle_dialled(2);
    assert_eq!(drain(&mut connection, at(301)), [Effect::Announce]);
    assert_eq!(connection.start(), Some(2));
    connection.handle_news(up(2));
    connection.handle_news(up(1));
    assert_eq!(drain(&mut connection, at(302)), []);
    connection.handle_news(up(3));
    assert!(drain(&mut connection, at(303)).contains(&told(Reason::UpstreamChanged, 303)));
}

#[test]
fn row_12_a_newer_url_takes_the_place_of_a_dial_under_way() {
    let mut connection = asked(Some(up(1)));
    drain(&mut connection, at(0));
    connection.handle_news(up(2));
    assert_eq!(drain(&mut connection, at(1)), [dial(2)]);
}

#[test]
fn row_13_without_a_browser_there_is_a_refusal_and_nothing_to_tell() {
    for (news, now, code) in [
        (Some(down(1, Why::GaveUp)), 0, ErrorCode::BrowserDown),
        (Some(down(1, Why::Stopped)), 0, ErrorCode::BrowserDown),
        (Some(News::Starting { start: 1 }), 90_000, ErrorCode::InstanceStarting),
        (Some(down(1, Why::Returns)), 90_000, ErrorCode::InstanceStarting),
        (None, 90_000, ErrorCode::InstanceStarting),
    ] {
        let mut connection = asked(news);
        if now > 0 {
            assert_eq!(drain(&mut connection, at(0)), [], "it is parked");
            assert_eq!(connection.next_deadline(), Some(at(90_000)));
        }
        assert_eq!(drain(&mut connection, at(now)), [Effect::Refuse(code)]);
        assert!(connection.is_over());
        assert_eq!(code.status(), Some(503));
    }
}

#[test]
fn row_13_who_leaves_while_parked_leaves_nothing_to_tell() {
    for end in [Connection::handle_cancelled as fn(&mut Connection, Instant), Connection::handle_client_ended] {
        let mut connection = asked(Some(News::Starting { start: 1 }));
        end(&mut connection, at(3));
        assert_eq!(drain(&mut connection, at(3)), []);
        assert!(connection.is_over());
    }
}

#[test]
fn what_the_browser_itself_refuses_leaves_nothing_to_tell() {
    let mut connection = asked(Some(up(1)));
    drain(&mut connection, at(0));
    connection.handle_dial_refused();
    connection.handle_cancelled(at(1));
    assert_eq!(drain(&mut connection, at(1)), []);
    assert!(connection.is_over());
}

#[test]
fn rows_14_to_17_what_has_ended_wants_nothing_any_more() {
    let mut connection = carrying();
    connection.handle_news(up(2));
    drain(&mut connection, at(5));
    for news in [up(3), down(3, Why::GaveUp), up(4)] {
        connection.handle_news(news);
        assert_eq!((drain(&mut connection, at(6)), connection.next_deadline()), (vec![], None));
    }
}

#[test]
fn rows_18_and_19_ending_twice_is_ending_once() {
    let mut connection = carrying();
    for millis in [5, 6] {
        connection.handle_client_ended(at(millis));
        connection.handle_upstream_ended(Fate::Lives, at(millis));
    }
    assert_eq!(drain(&mut connection, at(6)), [Effect::CloseUpstream, told(Reason::ClientClose, 5)]);
    let mut connection = carrying();
    connection.handle_cancelled(at(5));
    connection.handle_cancelled(at(6));
    assert_eq!(drain(&mut connection, at(6)).len(), 2);
    connection.handle_cancelled(at(7));
    assert_eq!(drain(&mut connection, at(7)), []);
}

#[test]
fn rows_20_and_21_news_that_come_while_dialling_are_not_lost_on_what_follows() {
    let mut connection = asked(Some(up(1)));
    drain(&mut connection, at(0));
    // The dial succeeds, and at the same time the browser is another one.
    connection.handle_dialled(1);
    connection.handle_news(up(2));
    assert_eq!(drain(&mut connection, at(1)), [dial(2)]);
    // The same, weighed one after the other.
    let mut connection = carrying();
    connection.handle_news(down(1, Why::Returns));
    connection.handle_news(up(2));
    let all = and(closing(ErrorCode::UpstreamChanged), told(Reason::UpstreamChanged, 1));
    assert_eq!(drain(&mut connection, at(1)), all);
}

#[test]
fn row_22_a_cancellation_of_a_request_that_lives_is_a_cancellation() {
    let mut connection = carrying();
    connection.handle_cancelled(at(5));
    assert_eq!(drain(&mut connection, at(5)), [Effect::CloseUpstream, told(Reason::ContextCancelled, 5)]);
}

#[test]
fn row_23_an_empty_url_in_the_middle_is_ignored_and_what_follows_is_not() {
    let mut connection = carrying();
    connection.handle_news(News::Up { start: 2, url: String::new() });
    assert_eq!(drain(&mut connection, at(5)), []);
    connection.handle_news(up(2));
    assert!(drain(&mut connection, at(6)).contains(&told(Reason::UpstreamChanged, 6)));
}

// --- every order ---

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fact {
    Client,
    Dies,
    Cancelled,
    NewerUp,
    NewerStarts,
    GaveUp,
    SameUrl,
    OlderUrl,
}

const FACTS: [Fact; 8] = [
    Fact::Client,
    Fact::Dies,
    Fact::Cancelled,
    Fact::NewerUp,
    Fact::NewerStarts,
    Fact::GaveUp,
    Fact::SameUrl,
    Fact::OlderUrl,
];

fn happen(connection: &mut Connection, fact: Fact) {
    match fact {
        Fact::Client => connection.handle_client_ended(at(5)),
        Fact::Dies => connection.handle_upstream_ended(Fate::Returns, at(5)),
        Fact::Cancelled => connection.handle_cancelled(at(5)),
        Fact::NewerUp => connection.handle_news(up(2)),
        Fact::NewerStarts => connection.handle_news(News::Starting { start: 2 }),
        Fact::GaveUp => connection.handle_news(down(1, Why::GaveUp)),
        Fact::SameUrl => connection.handle_news(up(1)),
        Fact::OlderUrl => connection.handle_news(up(0)),
    }
}

/// What a set of facts that come together must be attributed to.
fn expected(facts: &[Fact]) -> Option<Reason> {
    let has = |fact| facts.contains(&fact);
    let order = [
        (Fact::Cancelled, Reason::ContextCancelled),
        (Fact::Client, Reason::ClientClose),
        (Fact::NewerUp, Reason::UpstreamChanged),
        // Nothing follows in these worlds.
        (Fact::Dies, Reason::UpstreamError),
        (Fact::NewerStarts, Reason::UpstreamError),
        (Fact::GaveUp, Reason::UpstreamError),
    ];
    order.into_iter().find(|(fact, _)| has(*fact)).map(|(_, reason)| reason)
}

/// Everything that a connection tells until the time for finding a reason is over.
fn outcome(connection: &mut Connection) -> Vec<Effect> {
    let mut effects = drain(connection, at(5));
    effects.extend(drain(connection, at(5) + RESTART_CONFIRM));
    effects
}

fn for_every_order(facts: &mut Vec<Fact>, from: usize, check: &mut impl FnMut(&[Fact])) {
    check(&facts[..from]);
    for next in from..facts.len() {
        facts.swap(from, next);
        for_every_order(facts, from + 1, check);
        facts.swap(from, next);
    }
}

#[test]
fn every_order_of_every_set_of_facts_has_one_outcome() {
    let mut orders = 0;
    let mut by_set = std::collections::HashMap::new();
    for_every_order(&mut FACTS.to_vec(), 0, &mut |facts| {
        orders += 1;
        let mut connection = carrying();
        facts.iter().for_each(|&fact| happen(&mut connection, fact));
        let effects = outcome(&mut connection);
        let reasons: Vec<_> = effects.iter().filter_map(reason).collect();
        assert_eq!(reasons, Vec::from_iter(expected(facts)), "{facts:?}");
        assert!(
            effects.iter().all(|effect| matches!(effect, Effect::Attribute(_)) == effect_is_last(&effects, effect))
        );
        let set = FACTS.iter().filter(|fact| facts.contains(fact)).map(|fact| 1 << *fact as u8).sum::<u16>();
        let first = by_set.entry(set).or_insert_with(|| effects.clone());
        assert_eq!(*first, effects, "{facts:?}");
    });
    assert_eq!((orders, by_set.len()), (109_601, 256));
}

#[test]
fn rows_6_and_7_are_the_same_in_every_order_also_when_each_fact_is_weighed_by_itself() {
    for_every_order(&mut FACTS.to_vec(), 0, &mut |facts| {
        let (mut connection, mut effects) = (carrying(), Vec::new());
        for &fact in facts {
            happen(&mut connection, fact);
            effects.extend(drain(&mut connection, at(5)));
        }
        effects.extend(drain(&mut connection, at(5) + RESTART_CONFIRM));
        let reasons: Vec<_> = effects.iter().filter_map(reason).collect();
        assert!(reasons.len() <= 1 && (reasons.len() == 1) == expected(facts).is_some(), "{facts:?}: {reasons:?}");
        let is =
            |sets: &[&[Fact]]| sets.iter().any(|set| set.len() == facts.len() && set.iter().all(|f| facts.contains(f)));
        if is(&[&[Fact::Dies, Fact::NewerUp], &[Fact::Dies, Fact::NewerUp, Fact::NewerStarts, Fact::SameUrl]]) {
            assert_eq!(reasons, [Reason::UpstreamChanged], "{facts:?}");
        }
        if is(&[&[Fact::Cancelled, Fact::Dies], &[Fact::Cancelled, Fact::Dies, Fact::NewerStarts]]) {
            assert_eq!(reasons, [Reason::ContextCancelled], "{facts:?}");
        }
    });
}

fn reason(effect: &Effect) -> Option<Reason> {
    if let Effect::Attribute(disconnect) = effect { Some(disconnect.reason) } else { None }
}

fn effect_is_last(effects: &[Effect], effect: &Effect) -> bool {
    std::ptr::eq(effect, effects.last().expect("it is one of them"))
}

// --- seeds ---

/// A browser that dies and comes back, whose signs reach the connection each with a delay of its own. Returns what was told
/// and when the connection heard the first of it.
fn death_and_return(seed: u64, is_together: bool) -> (Vec<(u64, Effect)>, u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut connection = carrying();
    let death = rng.random_range(1..1_000);
    let (pause, startup) =
        if is_together { (0, 0) } else { (rng.random_range(100..5_000), rng.random_range(50..4_500)) };
    let mut late = |from: u64, most: u64| from + rng.random_range(0..=most);
    // News keep their order: they come from one task.
    let down_at = late(death, 20);
    let starting_at = late(down_at.max(death + pause), 20);
    let up_at = late(starting_at.max(death + pause + startup), 20);
    let eof_at = late(death, 20);
    let mut facts: Vec<(u64, Option<News>)> = vec![
        (eof_at, None),
        (down_at, Some(down(1, Why::Returns))),
        (starting_at, Some(News::Starting { start: 2 })),
        (up_at, Some(up(2))),
    ];
    // What is repeated or comes from an earlier life must not matter.
    facts.extend((0..4).map(|_| (rng.random_range(0..15_000), Some(up(rng.random_range(0..2))))));
    facts.shuffle(&mut rng);
    facts.sort_by_key(|(when, _)| *when);
    let mut said = Vec::new();
    for (when, news) in facts {
        match news {
            Some(news) => connection.handle_news(news),
            None => connection.handle_upstream_ended(Fate::Returns, at(when)),
        }
        // Sometimes several facts are weighed at once.
        if rng.random_bool(0.8) || said.is_empty() {
            said.extend(drain(&mut connection, at(when)).into_iter().map(|effect| (when, effect)));
        }
    }
    said.extend(drain(&mut connection, at(20_000)).into_iter().map(|effect| (20_000, effect)));
    (said, eof_at.min(down_at))
}

#[test]
fn rows_3_and_6_are_a_change_for_a_thousand_seeds() {
    for seed in 0..1_000 {
        for is_together in [false, true] {
            let (said, heard) = death_and_return(seed, is_together);
            let closes: Vec<_> = said.iter().filter(|(_, effect)| matches!(effect, Effect::CloseClient(_))).collect();
            assert_eq!(closes, [&(closes[0].0, Effect::CloseClient(ErrorCode::UpstreamChanged))], "seed {seed}");
            assert!(closes[0].0 >= heard, "seed {seed}");
            let last = said.last().unwrap();
            let Effect::Attribute(Disconnect { reason, at: when }) = last.1 else { panic!("seed {seed}: {said:?}") };
            assert_eq!(reason, Reason::UpstreamChanged, "seed {seed}");
            assert_eq!(when, at(when.as_millis()), "seed {seed}");
            assert!((heard..=closes[0].0).contains(&when.as_millis()), "seed {seed}: {when:?} after {heard}");
            assert_eq!(said.len(), 3, "seed {seed}: {said:?}");
        }
    }
}
