//! Each rule that keeps an instance from having two owners is needed: without it there is a way to two. That with all of
//! them there is none, `landfast-sim --owners` shows; it looks at millions of states, and is run in the whole test.

use landfast_sim::owners::{Weakness, World, explore};

/// The shortest way to two nodes that serve at once, told by clocks at their worst.
fn story(weakness: Weakness) -> String {
    let explored = explore(World { node: 90, registry: 110, late: 1 }, Some(weakness));
    let story = explored.story.expect("a rule without which nothing happens is none").join("\n");
    println!("{story}");
    story
}

macro_rules! needed {
    ($($name:ident: $weakness:ident leads over $by:literal;)*) => {$(
        #[test]
        fn $name() {
            assert!(story(Weakness::$weakness).contains($by));
        }
    )*};
}

needed! {
    a_node_has_to_fence_itself: NoFence leads over "the keeper calls the instance lost";
    an_agent_has_to_see_its_nodes_lease: NoTenure leads over "the keeper calls the instance lost";
    a_node_that_was_away_has_to_claim: NoClaim leads over "the keeper calls the instance lost";
    what_was_seen_to_end_must_not_be_prolonged: OneTenure leads over "the daemon is started";
    the_source_of_a_move_has_to_cut_first: NoCut leads over "asks to give it away";
    a_keeper_has_to_look: NoLook leads over "the keeper calls the instance lost";
}
