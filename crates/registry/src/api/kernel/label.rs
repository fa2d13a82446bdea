//! What such a client said of its browser, kept in labels: they are part of the record, and every release keeps them.

use std::collections::BTreeMap;

use landfast_core::id::PoolId;
use landfast_core::record::Instance;

/// Begins the names of these labels; the others are the client's tags.
const OURS: &str = "kernel.";

/// It was made on this surface, and is removed when it has been idle for its time.
const MADE: &str = "kernel.made";
/// The name it is found by.
const NAME: &str = "kernel.name";
/// What it was asked to open.
const START_URL: &str = "kernel.start_url";
/// Where and how large the client wants to believe it is.
const REGION: &str = "kernel.region";
const MEMORY: &str = "kernel.memory";
/// The size of its window.
const VIEWPORT: &str = "kernel.viewport";
/// The pool it belongs to.
const POOL: &str = "kernel.pool";
/// Somebody has acquired it.
const LENT: &str = "kernel.lent";

/// What is kept of a browser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) is_made_here: bool,
    pub(super) name: Option<String>,
    pub(super) start_url: Option<String>,
    pub(super) region: Option<String>,
    pub(super) memory: Option<String>,
    /// Width and height.
    pub(super) viewport: Option<(u32, u32)>,
    pub(super) pool: Option<PoolId>,
    pub(super) is_lent: bool,
    pub(super) tags: BTreeMap<String, String>,
}

impl Labels {
    /// Those of an instance.
    pub(super) fn of(instance: &Instance) -> Self {
        let get = |name: &str| instance.labels.get(name).cloned();
        let tags = instance.labels.iter().filter(|(name, _)| !name.starts_with(OURS));
        Self {
            is_made_here: get(MADE).is_some(),
            name: get(NAME),
            start_url: get(START_URL),
            region: get(REGION),
            memory: get(MEMORY),
            viewport: get(VIEWPORT).as_deref().and_then(read_viewport),
            pool: get(POOL).and_then(|id| id.parse().ok()),
            is_lent: get(LENT).is_some(),
            tags: tags.map(|(name, value)| (name.clone(), value.clone())).collect(),
        }
    }

    /// As the record has them.
    pub(super) fn into_map(self) -> BTreeMap<String, String> {
        let yes = |is: bool| is.then(|| "yes".to_owned());
        let ours = [
            (MADE, yes(self.is_made_here)),
            (NAME, self.name),
            (START_URL, self.start_url),
            (REGION, self.region),
            (MEMORY, self.memory),
            (VIEWPORT, self.viewport.map(|(width, height)| format!("{width}x{height}"))),
            (POOL, self.pool.map(|id| id.to_string())),
            (LENT, yes(self.is_lent)),
        ];
        let ours = ours.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        self.tags.into_iter().chain(ours).collect()
    }
}

/// Whether a client may not choose this tag.
pub(super) fn is_ours(tag: &str) -> bool {
    tag.starts_with(OURS)
}

fn read_viewport(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.split_once('x')?;
    Some((width.parse().ok()?, height.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let labels = Labels {
            is_made_here: true,
            name: Some("scraper".into()),
            viewport: Some((800, 600)),
            is_lent: true,
            tags: [("team".to_owned(), "a".to_owned())].into(),
            ..Labels::default()
        };
        let map = labels.clone().into_map();
        assert_eq!(map.len(), 5);
        let mut instance: Instance = serde_json::from_value(serde_json::json!({
            "id": "ins_00000000000000000000000000", "kind": "browser", "spec": {}, "desired": "running",
            "phase": "running", "generation": 1, "created_at": 1,
        }))
        .unwrap();
        instance.labels = map;
        assert_eq!(Labels::of(&instance), labels);
    }
}
