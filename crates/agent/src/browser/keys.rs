//! Keys by the names that people give them, as a browser wants to be told of them.
//!
//! Names are those of X11, which programs for screens use (`Return`, `Prior`, `Ctrl+Shift+Tab`), and the common words
//! beside them. A name that is not known is refused: a key that was pressed by guess is worse than none.

use landfast_core::{ErrorCode, Problem};

/// A key of a keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// What it means, as pages are told (`KeyboardEvent.key`).
    pub(crate) meaning: String,
    /// Which key it is (`KeyboardEvent.code`); empty if no key of a plain keyboard types it.
    pub(crate) code: String,
    /// Its number in Windows, which browsers still go by.
    pub(crate) number: u32,
    /// What it types, if it types something.
    pub(crate) text: Option<String>,
    /// Its bit, if it changes what other keys mean.
    pub(crate) modifier: u8,
}

/// Bits of keys that change what others mean.
const ALT: u8 = 1;
const CONTROL: u8 = 2;
const META: u8 = 4;
const SHIFT: u8 = 8;

/// Names in small letters, what they mean, the key, its number, what it types, and its bit.
type Named = (&'static [&'static str], &'static str, &'static str, u32, Option<&'static str>, u8);

/// Keys that type no sign of their own, or have a name for it.
const NAMED: [Named; 25] = [
    (&["return", "enter", "kp_enter"], "Enter", "Enter", 13, Some("\r"), 0),
    (&["tab"], "Tab", "Tab", 9, None, 0),
    (&["space"], " ", "Space", 32, Some(" "), 0),
    (&["backspace"], "Backspace", "Backspace", 8, None, 0),
    (&["delete", "del"], "Delete", "Delete", 46, None, 0),
    (&["insert"], "Insert", "Insert", 45, None, 0),
    (&["escape", "esc"], "Escape", "Escape", 27, None, 0),
    (&["home"], "Home", "Home", 36, None, 0),
    (&["end"], "End", "End", 35, None, 0),
    (&["prior", "page_up", "pageup"], "PageUp", "PageUp", 33, None, 0),
    (&["next", "page_down", "pagedown"], "PageDown", "PageDown", 34, None, 0),
    (&["left", "arrowleft"], "ArrowLeft", "ArrowLeft", 37, None, 0),
    (&["up", "arrowup"], "ArrowUp", "ArrowUp", 38, None, 0),
    (&["right", "arrowright"], "ArrowRight", "ArrowRight", 39, None, 0),
    (&["down", "arrowdown"], "ArrowDown", "ArrowDown", 40, None, 0),
    (&["shift", "shift_l"], "Shift", "ShiftLeft", 16, None, SHIFT),
    (&["shift_r"], "Shift", "ShiftRight", 16, None, SHIFT),
    (&["ctrl", "control", "control_l", "ctrl_l"], "Control", "ControlLeft", 17, None, CONTROL),
    (&["control_r", "ctrl_r"], "Control", "ControlRight", 17, None, CONTROL),
    (&["alt", "alt_l", "option"], "Alt", "AltLeft", 18, None, ALT),
    (&["alt_r"], "Alt", "AltRight", 18, None, ALT),
    (&["super", "super_l", "meta", "cmd", "command"], "Meta", "MetaLeft", 91, None, META),
    (&["super_r"], "Meta", "MetaRight", 92, None, META),
    (&["caps_lock", "capslock"], "CapsLock", "CapsLock", 20, None, 0),
    (&["menu"], "ContextMenu", "ContextMenu", 93, None, 0),
];

/// Punctuation by its name in X11.
const SIGNS: [(&str, char); 16] = [
    ("minus", '-'),
    ("plus", '+'),
    ("equal", '='),
    ("comma", ','),
    ("period", '.'),
    ("slash", '/'),
    ("backslash", '\\'),
    ("semicolon", ';'),
    ("apostrophe", '\''),
    ("grave", '`'),
    ("bracketleft", '['),
    ("bracketright", ']'),
    ("underscore", '_'),
    ("colon", ':'),
    ("question", '?'),
    ("exclam", '!'),
];

/// Where signs are on a keyboard as in the USA: the sign, the one with shift, the key and its number.
const PLACES: [(char, char, &str, u32); 11] = [
    ('-', '_', "Minus", 189),
    ('=', '+', "Equal", 187),
    (',', '<', "Comma", 188),
    ('.', '>', "Period", 190),
    ('/', '?', "Slash", 191),
    ('\\', '|', "Backslash", 220),
    (';', ':', "Semicolon", 186),
    ('\'', '"', "Quote", 222),
    ('`', '~', "Backquote", 192),
    ('[', '{', "BracketLeft", 219),
    (']', '}', "BracketRight", 221),
];

/// The signs above the digits.
const ABOVE_DIGITS: &str = ")!@#$%^&*(";

impl Key {
    /// The keys of a combination such as `Ctrl+Shift+Tab`, in the order in which they go down.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`], naming the one that is not known.
    pub(crate) fn combination(text: &str) -> Result<Vec<Self>, Problem> {
        // A plus behind the last one is the key itself.
        let (names, last) = match text.strip_suffix("++") {
            Some(names) => (names, Some("plus")),
            None if text == "+" => ("plus", None),
            None => (text, None),
        };
        names.split('+').chain(last).map(Self::named).collect()
    }

    /// The key of this name.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::RequestInvalid`].
    pub(crate) fn named(name: &str) -> Result<Self, Problem> {
        let mut letters = name.chars();
        if let (Some(letter), None) = (letters.next(), letters.next()) {
            return Ok(Self::typing(letter));
        }
        let small = name.to_lowercase();
        if let Some((_, sign)) = SIGNS.iter().find(|(known, _)| *known == small) {
            return Ok(Self::typing(*sign));
        }
        if let Some(n) = small.strip_prefix('f').and_then(|n| n.parse::<u32>().ok()).filter(|n| (1..=12).contains(n)) {
            let name = format!("F{n}");
            return Ok(Self { meaning: name.clone(), code: name, number: 111 + n, text: None, modifier: 0 });
        }
        let found = NAMED.iter().find(|(names, ..)| names.contains(&&*small));
        let Some(&(_, meaning, code, number, text, modifier)) = found else {
            let why =
                format!("No key is called {name:.30?}; names are those of X11, such as Return or Ctrl+Shift+Tab.");
            return Err(Problem::new(ErrorCode::RequestInvalid, why));
        };
        let text = text.map(str::to_owned);
        Ok(Self { meaning: meaning.to_owned(), code: code.to_owned(), number, text, modifier })
    }

    /// The key that types a letter; of one that no key has, what it types is all that is known.
    pub(crate) fn typing(letter: char) -> Self {
        let (code, number) = place(letter).unwrap_or_default();
        Self { meaning: letter.to_string(), code, number, text: Some(letter.to_string()), modifier: 0 }
    }

    /// Whether a plain keyboard has it.
    pub(crate) const fn is_on_a_keyboard(&self) -> bool {
        self.number != 0
    }
}

/// Where a letter is on a keyboard.
fn place(letter: char) -> Option<(String, u32)> {
    let upper = letter.to_ascii_uppercase();
    if letter.is_ascii_alphabetic() {
        return Some((format!("Key{upper}"), upper.into()));
    }
    let digit = letter.to_digit(10).or_else(|| ABOVE_DIGITS.find(letter).and_then(|at| u32::try_from(at).ok()));
    if let Some(digit) = digit {
        return Some((format!("Digit{digit}"), 48 + digit));
    }
    if letter == ' ' {
        return Some(("Space".to_owned(), 32));
    }
    let found = PLACES.iter().find(|(plain, shifted, ..)| [*plain, *shifted].contains(&letter));
    found.map(|&(_, _, code, number)| (code.to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_read_as_people_write_them() {
        let meanings = |text: &str| -> Vec<String> {
            Key::combination(text).unwrap().into_iter().map(|key| key.meaning).collect()
        };
        for (text, keys) in [
            ("Return", vec!["Enter"]),
            ("Ctrl+Shift+Tab", vec!["Control", "Shift", "Tab"]),
            ("ctrl+a", vec!["Control", "a"]),
            ("Ctrl+-", vec!["Control", "-"]),
            ("Ctrl+minus", vec!["Control", "-"]),
            ("Ctrl++", vec!["Control", "+"]),
            ("+", vec!["+"]),
            ("F5", vec!["F5"]),
            ("Page_Down", vec!["PageDown"]),
        ] {
            assert_eq!(meanings(text), keys, "{text}");
        }
        for unknown in ["Foo", "Ctrl+Foo", "", "F13"] {
            let problem = Key::combination(unknown).unwrap_err();
            assert_eq!(problem.code, ErrorCode::RequestInvalid, "{unknown}");
        }
    }

    #[test]
    fn letters_have_their_keys_and_others_have_none() {
        let key = |letter| (Key::typing(letter).code, Key::typing(letter).number);
        assert_eq!(key('a'), ("KeyA".to_owned(), 65));
        assert_eq!(key('A'), ("KeyA".to_owned(), 65));
        assert_eq!(key('%'), ("Digit5".to_owned(), 53));
        assert_eq!(key('?'), ("Slash".to_owned(), 191));
        assert!(!Key::typing('ß').is_on_a_keyboard());
    }
}
