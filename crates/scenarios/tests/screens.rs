//! Full-screen programs: what a viewer sees after cuts, moves, or a late arrival, against what it would have seen.

use landfast_scenarios::attached::Attached;
use landfast_scenarios::cell::Cell;
use landfast_scenarios::direct;
use landfast_scenarios::instance::Process;
use vt100::Parser;

/// The screen of a viewer that saw these bytes: 24 rows and 80 columns, as the terminal was started with.
fn screen(bytes: &[u8]) -> Parser {
    let mut parser = Parser::default();
    parser.process(bytes);
    parser
}

/// Cells with their attributes, the cursor, and all modes.
fn assert_same(seen: &Parser, expected: &Parser, what: &str) {
    let (seen, expected) = (seen.screen(), expected.screen());
    assert_eq!(seen.contents(), expected.contents(), "{what}: the text");
    for row in 0..24 {
        for col in 0..80 {
            assert_eq!(seen.cell(row, col), expected.cell(row, col), "{what}: the cell at {row}, {col}");
        }
    }
    assert_eq!(seen.cursor_position(), expected.cursor_position(), "{what}: the cursor");
    let modes = |screen: &vt100::Screen| {
        (
            (screen.alternate_screen(), screen.hide_cursor(), screen.bracketed_paste()),
            (screen.application_cursor(), screen.application_keypad()),
            (screen.mouse_protocol_mode(), screen.mouse_protocol_encoding()),
        )
    };
    assert_eq!(modes(seen), modes(expected), "{what}: the modes");
}

/// A viewer that comes late sees what the log up to its offset, and everything after it, makes of a screen.
async fn assert_redrawn(process: &Process, witness: &mut Attached) {
    let mut late = process.attach("screen").await;
    let live = late.goes_live().await as usize;
    let redraw = late.output.len();
    witness.reads(live).await;
    assert_same(&screen(&late.output), &screen(&witness.output[..live]), "redrawn from the screen");
    // The program is made to draw again, and both see the same.
    late.types("\u{c}").await;
    late.reads(redraw + 40).await;
    let upto = live + late.output.len() - redraw;
    witness.reads(upto).await;
    assert_eq!(late.output[redraw..], witness.output[live..upto], "what comes after the redraw is the log itself");
    assert_same(&screen(&late.output), &screen(&witness.output[..upto]), "after the redraw");
}

/// Plays `keys` with a cut or a move between them; then three viewers agree: one that was cut, one that was not, and one
/// that came late.
async fn plays(program: &str, shows: &str, keys: &[(&str, &str)]) {
    let cell = Cell::with_two_nodes().await;
    let instance = cell.create().await;
    let process = instance.terminal(program).await;
    let mut viewer = process.attach("start").await;
    viewer.shows(shows).await;
    for (number, (key, shows)) in keys.iter().enumerate() {
        if number == 1 {
            let (_, there) = cell.place_of(&instance).await;
            instance.moves_to(there).await;
        } else {
            cell.cut_links();
        }
        let before = viewer.output.len();
        viewer.types(key).await;
        viewer.shows_after(before, shows).await;
    }
    let mut witness = direct::attach(&cell, &process, "from=start").await;
    witness.reads(viewer.output.len()).await;
    assert!(witness.output.starts_with(&viewer.output), "the viewer that was cut saw the log itself");
    assert_redrawn(&process, &mut witness).await;
}

#[tokio::test]
async fn vim_survives_cuts_and_a_move_and_is_redrawn() {
    plays(
        "vim -u NONE -N -c 'set ruler mouse=a laststatus=2'",
        "VIM - Vi IMproved",
        &[("ihello", "hello"), (" world\u{1b}", "world"), ("yy5p", "5 more lines"), (":set number\r", "number")],
    )
    .await;
}

#[tokio::test]
async fn less_survives_cuts_and_a_move_and_is_redrawn() {
    plays("seq 1 1000 | less", "\n23", &[(" ", "46"), (" ", "69"), ("G", "1000"), ("?777\r", "777")]).await;
}

#[tokio::test]
async fn htop_survives_cuts_and_a_move_and_is_redrawn() {
    plays("htop -d 5", "PID", &[("\u{1b}[B", "\u{1b}"), ("h", "Arrows"), ("q", "PID")]).await;
}
