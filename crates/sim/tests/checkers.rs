//! A checker that cannot fail proves nothing: each sabotage must be found, and by the checker whose matter it is.

use landfast_sim::{Config, Invariant, Mood, Sabotage, run};

/// More than enough for each: most show within ten.
const SEEDS: u64 = 300;

/// The first seed whose sabotaged run breaks the invariant.
fn first_found(sabotage: Sabotage, mood: Mood, invariant: Invariant) -> Option<u64> {
    let config = Config { sabotage: Some(sabotage), mood: Some(mood), ..Config::default() };
    (0..SEEDS).find(|&seed| run(seed, config).violations.iter().any(|found| found.invariant == invariant))
}

macro_rules! found {
    ($($name:ident: $sabotage:ident among $mood:ident breaks $invariant:ident;)*) => {$(
        #[test]
        fn $name() {
            let found = first_found(Sabotage::$sabotage, Mood::$mood, Invariant::$invariant);
            assert!(found.is_some(), "{SEEDS} sabotaged seeds, and the checker saw nothing");
            println!("seen in seed {}", found.unwrap());
        }
    )*};
}

found! {
    a_byte_that_is_not_sent_again_is_missed: SkipReplay among Links breaks Bytes;
    a_byte_that_is_sent_twice_is_noticed: ReplayTwice among Links breaks Bytes;
    an_exit_that_was_guessed_is_noticed: GuessExit among Links breaks Endings;
    giving_up_early_is_noticed: GiveUpEarly among Everything breaks Endings;
    believing_an_empty_listing_is_noticed: BelieveAnEmptyListing among Everything breaks Endings;
    a_wrong_cause_is_noticed: TellTheWrongCause among Everything breaks Endings;
    a_missing_close_frame_is_noticed: SayNothing among Everything breaks Endings;
    a_source_that_goes_on_carrying_is_noticed: CommitUnfenced among Links breaks Owners;
    a_node_that_goes_on_carrying_what_sleeps_is_noticed: SleepUnfenced among Sleepers breaks Owners;
    a_node_that_outlives_its_lease_is_noticed: IgnoreTheFence among Leases breaks Owners;
    an_agent_that_outlives_its_nodes_lease_is_noticed: OutliveTheTenure among Comebacks breaks Owners;
    a_relay_that_takes_any_generation_is_noticed: TakeAnyGeneration among Leases breaks Owners;
    a_daemon_that_serves_what_it_has_not_claimed_is_noticed: ServeWithoutAClaim among Comebacks breaks Owners;
    a_keeper_that_goes_by_hearsay_is_noticed: CallLostFromHearsay among Comebacks breaks Owners;
    a_node_that_ends_a_later_life_is_noticed: EndLaterLives among Sleepers breaks Owners;
    a_node_that_ends_what_it_has_given_away_is_noticed: EndWhatWasGivenAway among Handovers breaks Owners;
    a_keeper_that_blames_nodes_for_the_store_is_noticed: BlameTheNodes among Leases breaks Owners;
    a_process_that_is_never_given_its_input_is_noticed: ForgetTheInput among Links breaks Settled;
}
