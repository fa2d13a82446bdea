//! Full-screen programs: what a viewer who comes late is drawn, against what one who was there has seen.

use landfast_net::socket::Socket;
use serde_json::json;
use vt100::Parser;

use crate::harness::Agent;
use crate::viewer::Viewer;

const ROWS: u16 = 24;
const COLS: u16 = 80;

fn shown(bytes: &[u8]) -> Parser {
    let mut parser = Parser::new(ROWS.try_into().unwrap(), COLS.try_into().unwrap(), 0);
    parser.process(bytes);
    parser
}

/// Every cell with its colours, the cursor, and all modes.
fn assert_same(seen: &Parser, expected: &Parser, what: &str) {
    let (seen, expected) = (seen.screen(), expected.screen());
    assert_eq!(seen.contents(), expected.contents(), "{what}: the text");
    for (row, col) in (0..ROWS).flat_map(|row| (0..COLS).map(move |col| (row, col))) {
        assert_eq!(seen.cell(row, col), expected.cell(row, col), "{what}: the cell at {row}, {col}");
    }
    assert_eq!(seen.cursor_position(), expected.cursor_position(), "{what}: the cursor");
    assert_eq!(seen.attributes_formatted(), expected.attributes_formatted(), "{what}: the pen");
    let modes = |screen: &vt100::Screen| {
        (
            (screen.alternate_screen(), screen.hide_cursor(), screen.bracketed_paste(), screen.cursor_style()),
            (screen.application_cursor(), screen.application_keypad()),
            (screen.mouse_protocol_mode(), screen.mouse_protocol_encoding()),
        )
    };
    assert_eq!(modes(seen), modes(expected), "{what}: the modes");
}

/// Types keys, each with what it makes the program show, while viewers come at all moments; in the end each has seen what
/// the first has.
async fn plays(argv: &[&str], begins: &str, steps: &[(&str, &str)]) {
    let agent = Agent::start().await;
    let env = json!({"PS1": "$ ", "HISTFILE": "/dev/null", "LESSHISTFILE": "-"});
    let id = agent.process(&json!({"argv": argv, "env": env, "tty": {"rows": ROWS, "cols": COLS}})).await;
    let mut first = agent.attach(&id, "from=start").await;
    let mut late: Vec<Viewer<Socket>> = Vec::new();
    first.shows(begins).await;
    for (key, shows) in steps {
        let before = first.output.len();
        first.types(key).await;
        late.push(agent.attach(&id, "from=screen").await);
        first.shows_after(before, shows).await;
        late.push(agent.attach(&id, "from=screen").await);
    }
    first.exits(0).await;
    let everything = shown(&first.output);
    for (number, viewer) in late.iter_mut().enumerate() {
        let live = viewer.goes_live().await as usize;
        let redraw = viewer.output.len();
        assert_same(&shown(&viewer.output), &shown(&first.output[..live]), &format!("redraw {number} at {live}"));
        viewer.exits(0).await;
        assert!(viewer.output[redraw..] == first.output[live..], "after the redraw comes the log itself");
        assert_same(&shown(&viewer.output), &everything, &format!("redraw {number} at {live} and the rest"));
    }
    let mut last = agent.attach(&id, "from=screen").await;
    last.exits(0).await;
    assert_same(&shown(&last.output), &everything, "the last screen of a process that has ended");
}

#[tokio::test]
async fn vim_is_redrawn_with_its_modes() {
    let vim = ["vim", "-u", "NONE", "-N", "-c", "set ruler mouse=a laststatus=2 noswapfile viminfo="];
    let steps = [
        ("ihello\r世界", "界"),
        (" world\x1b", "world"),
        ("yyp5p", "more lines"),
        (":set number hlsearch\r", "  8 "),
        ("/world\r", "world"),
        ("V", "VISUAL"),
        ("\x1b", "\x1b"),
        (":qa!\r", "\x1b[?1049l"),
    ];
    plays(&vim, "VIM - Vi IMproved", &steps).await;
}

#[tokio::test]
async fn less_is_redrawn_in_the_middle_of_a_text() {
    let steps = [(" ", "46"), (" ", "69"), ("/77\r", "77"), ("G", "1000"), ("g", "\x1b[H"), ("q", "\x1b[?1049l")];
    plays(&["sh", "-c", "seq 1 1000 | less"], "\n23", &steps).await;
}

#[tokio::test]
async fn htop_is_redrawn_with_its_colours() {
    let steps =
        [("\x1b[B", "\x1b"), ("\x1b[B", "\x1b"), ("h", "htop "), ("q", "PID"), ("t", "\x1b"), ("q", "\x1b[?1049l")];
    plays(&["htop", "-d", "2"], "PID", &steps).await;
}

#[tokio::test]
async fn a_shell_is_redrawn_with_its_prompt_and_what_scrolled_stays_gone() {
    let steps = [
        ("seq 1 100\r", "\r\n100\r\n"),
        ("ls --color=always /\r", "usr"),
        ("echo typed but", "typed but"),
        ("\x1b[D\x1b[D", "\x08\x08"),
        ("\x15printf '\\033[31mred'\r", "\x1b[31mred"),
        ("\x0bexit 0\r", "exit"),
    ];
    plays(&["bash", "--norc", "-i"], "$ ", &steps).await;
}

#[tokio::test]
async fn python_is_redrawn() {
    let steps = [
        ("print('x'*200)\r", "xxxxxxxx\r\n"),
        ("help('len')\r", "(END)"),
        ("q", "\x1b[?1049l"),
        ("exit()\r", "exit()"),
    ];
    plays(&["python3", "-q"], ">>> ", &steps).await;
}
