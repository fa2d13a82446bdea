//! Where a role's settings come from: its defaults, then a file, then the environment, then flags; later wins.
//!
//! Each layer is a table of the same keys, so laying one over the other is all there is to it; the role's own struct then
//! reads the result and refuses what it does not know.

use std::collections::BTreeMap;
use std::path::Path;

use landfast_core::{ErrorCode, Problem};
use serde::de::{self, DeserializeOwned};
use toml::{Table, Value};

/// The roles, each a section of the file and a prefix of variables.
pub const ROLES: [&str; 3] = ["api", "gateway", "node"];

/// Variables that look like a role's setting and are not: the client's own.
const NOT_SETTINGS: [&str; 1] = ["LANDFAST_API_KEY"];

/// A role's own place for the data directory would split the cell.
const SAID_FOR_ALL: &str = "data";

/// The settings of all roles from every source but flags.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    file: Table,
    file_name: Option<String>,
    /// By role, then by key, as text.
    env: BTreeMap<&'static str, BTreeMap<String, String>>,
}

impl Layers {
    /// Reads the file, if one is named, and the variables.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`]: the file cannot be read, is not TOML, or has a section that is no role's.
    pub fn read(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, Problem> {
        let mut layers = Self { env: variables(env), ..Self::default() };
        if let Some(path) = file {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|error| invalid(format!("{name}: {error}.")))?;
            layers.file = sections(&text).map_err(|what| invalid(format!("{name}: {what}")))?;
            layers.file_name = Some(name);
        }
        Ok(layers)
    }

    /// The settings of one role, with its flags on top.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::ConfigInvalid`]: a key the role does not know, or a value of the wrong form.
    pub fn role<T: DeserializeOwned>(&self, role: &'static str, flags: &Table) -> Result<T, Problem> {
        let read = |values: fn(&str) -> Value| {
            let mut table = self.file.get(role).and_then(Value::as_table).cloned().unwrap_or_default();
            let env = self.env.get(role).into_iter().flatten();
            table.extend(env.map(|(key, text)| (key.clone(), values(text))));
            if table.contains_key(SAID_FOR_ALL) {
                return Err(de::Error::custom("`data` is said once for all roles, with --data or LANDFAST_DATA"));
            }
            table.extend(flags.clone());
            table.try_into::<T>()
        };
        // A variable has no type of its own: `8` is a number where one is wanted, and else a name that looks like one.
        read(typed).or_else(|error| read(|text| Value::String(text.to_owned())).map_err(|_| self.refusal(role, &error)))
    }

    fn refusal(&self, role: &str, error: &toml::de::Error) -> Problem {
        let mut sources: Vec<String> = self.file_name.iter().cloned().collect();
        let keys = self.env.get(role).into_iter().flatten();
        sources.extend(keys.map(|(key, _)| format!("LANDFAST_{}_{}", role.to_uppercase(), key.to_uppercase())));
        sources.push("flags".to_owned());
        let what = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        invalid(format!("The settings of the {role} (from {}): {what}.", sources.join(", ")))
    }
}

fn variables(env: impl IntoIterator<Item = (String, String)>) -> BTreeMap<&'static str, BTreeMap<String, String>> {
    let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (name, value) in env {
        for role in ROLES {
            let key = name.strip_prefix("LANDFAST_").and_then(|rest| rest.strip_prefix(&*role.to_uppercase()));
            if let Some(key) = key.and_then(|key| key.strip_prefix('_'))
                && !NOT_SETTINGS.contains(&name.as_str())
            {
                found.entry(role).or_default().insert(key.to_lowercase(), value.clone());
            }
        }
    }
    found
}

fn sections(text: &str) -> Result<Table, String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    for (name, value) in &table {
        if !ROLES.contains(&name.as_str()) {
            return Err(format!("`{name}` is no section; the sections are [{}].", ROLES.join("], [")));
        }
        if !value.is_table() {
            return Err(format!("`{name}` is a section: write [{name}] and its settings below."));
        }
    }
    Ok(table)
}

fn typed(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn invalid(detail: String) -> Problem {
    Problem::new(ErrorCode::ConfigInvalid, detail)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Node {
        name: String,
        capacity: u32,
        listen: SocketAddr,
        labels: BTreeMap<String, String>,
    }

    impl Default for Node {
        fn default() -> Self {
            Self { name: "a".into(), capacity: 1, listen: ([127, 0, 0, 1], 0).into(), labels: BTreeMap::new() }
        }
    }

    fn read(file: &str, env: &[(&str, &str)], flags: &Table) -> Result<Node, Problem> {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&path, file).unwrap();
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Layers::read(Some(path.path()), env)?.role("node", flags)
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
        let file = "[node]\nname = 'file'\ncapacity = 2\nlisten = '127.0.0.1:2'\n[gateway]\nx = 1";
        let env = [("LANDFAST_NODE_CAPACITY", "3"), ("LANDFAST_NODE_LISTEN", "127.0.0.1:3")];
        let flags = Table::from_iter([("listen".to_owned(), Value::from("127.0.0.1:4"))]);
        let node = read(file, &env, &flags).unwrap();
        assert_eq!((node.name.as_str(), node.capacity, node.listen.port()), ("file", 3, 4));
        assert_eq!(read("", &[], &Table::new()), Ok(Node::default()));
    }

    #[test]
    fn a_variable_is_read_as_the_form_its_key_has() {
        let labels = read("", &[("LANDFAST_NODE_LABELS", "{ zone = 'x' }")], &Table::new()).unwrap().labels;
        assert_eq!(labels["zone"], "x");
        assert_eq!(read("", &[("LANDFAST_NODE_NAME", "7")], &Table::new()).unwrap().name, "7");
    }

    #[test]
    fn an_unknown_key_is_named_with_where_it_may_stand_and_what_is_known() {
        let in_file = read("[node]\nnmae = 'x'", &[], &Table::new()).unwrap_err();
        assert_eq!(in_file.code, ErrorCode::ConfigInvalid);
        assert!(in_file.detail.contains("unknown field `nmae`") && in_file.detail.contains("capacity"), "{in_file}");
        let in_env = read("", &[("LANDFAST_NODE_NMAE", "x")], &Table::new()).unwrap_err();
        assert!(in_env.detail.contains("LANDFAST_NODE_NMAE"), "{in_env}");
    }

    #[test]
    fn one_roles_own_data_directory_is_refused() {
        let problem = read("[node]\ndata = '/elsewhere'", &[], &Table::new()).unwrap_err();
        assert!(problem.detail.contains("--data"), "{problem}");
    }

    #[test]
    fn an_unknown_section_is_refused() {
        let problem = read("[nodes]\n", &[], &Table::new()).unwrap_err();
        assert!(problem.detail.contains("`nodes`") && problem.detail.contains("[node]"), "{problem}");
    }

    #[test]
    fn the_clients_key_is_no_setting_of_the_api() {
        let layers = Layers::read(None, [("LANDFAST_API_KEY".to_owned(), "lf_1".to_owned())]).unwrap();
        assert!(layers.role::<Table>("api", &Table::new()).unwrap().is_empty());
    }
}
