//! What is said of the browser: the latest word counts, and an older start's never stands behind a newer one's.

/// How the browser is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// This start is under way.
    Starting {
        /// Its number.
        start: u64,
    },
    /// This start answers.
    Up {
        /// Its number.
        start: u64,
        /// Where its DevTools listen.
        url: String,
    },
    /// This start is over.
    Down {
        /// Its number.
        start: u64,
        /// What follows.
        why: Why,
    },
}

/// What follows a start that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Another one.
    Returns,
    /// Nothing: it was asked to end.
    Stopped,
    /// Nothing: it has failed too often.
    GaveUp,
}

impl News {
    /// Grows along a browser's life: a start's news never stands behind an older start's.
    const fn order(&self) -> (u64, u8) {
        match self {
            Self::Starting { start } => (*start, 0),
            Self::Up { start, .. } => (*start, 1),
            Self::Down { start, why: Why::Returns } => (*start, 2),
            Self::Down { start, why: Why::Stopped | Why::GaveUp } => (*start, 3),
        }
    }
}

/// The newest of the news.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latest(Option<News>);

impl Latest {
    /// Nothing was said yet.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Takes news in, and tells whether it was any: what is older, equal or without a URL is none.
    pub fn handle_news(&mut self, news: News) -> bool {
        let is_empty = matches!(&news, News::Up { url, .. } if url.is_empty());
        let is_old = self.0.as_ref().is_some_and(|known| *known == news || known.order() > news.order());
        if is_empty || is_old {
            return false;
        }
        self.0 = Some(news);
        true
    }

    /// How the browser is, if that was ever said.
    pub const fn get(&self) -> Option<&News> {
        self.0.as_ref()
    }
}
