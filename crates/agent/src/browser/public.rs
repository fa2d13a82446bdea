//! The browser's own URLs, told as whoever asked can reach them.
//!
//! Chromium names itself by the address at which the agent reached it. Its clients open what it names, so every name has to
//! be that of the way by which they came: through a gateway, with its path and its token.

use serde_json::Value;

/// Where an asker reached the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Public {
    is_secure: bool,
    /// The host and port, and the path up to the agent's own paths.
    base: String,
    /// What must stand in the query of each URL.
    query: Option<String>,
}

impl Public {
    /// Reads what a gateway says of itself, or else the asker's own `Host`.
    pub(crate) fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let said = header("landfast-public-url").and_then(|url| {
            let (scheme, base) = url.split_once("://")?;
            let is_secure = match scheme {
                "https" | "wss" => true,
                "http" | "ws" => false,
                _ => return None,
            };
            Some((is_secure, base.trim_end_matches('/').to_owned()))
        });
        let host = || (false, header("host").unwrap_or("localhost").to_owned());
        let (is_secure, base) = said.unwrap_or_else(host);
        let query = header("landfast-public-query").filter(|query| !query.is_empty()).map(str::to_owned);
        Self { is_secure, base, query }
    }

    /// Rewrites every URL of the browser's in one of its answers.
    pub(crate) fn rewrite(&self, answer: &mut Value) {
        match answer {
            Value::Array(items) => items.iter_mut().for_each(|item| self.rewrite(item)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match (name.as_str(), &mut *value) {
                        ("webSocketDebuggerUrl", Value::String(url)) => *url = self.socket(path(url)),
                        ("devtoolsFrontendUrl" | "devtoolsFrontendUrlCompat", Value::String(url)) => {
                            *url = self.frontend(url);
                        }
                        (_, nested) => self.rewrite(nested),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// The URL of a socket of the browser.
    fn socket(&self, path: &str) -> String {
        let scheme = if self.is_secure { "wss" } else { "ws" };
        format!("{scheme}://{}", self.with_query(path))
    }

    fn with_query(&self, path: &str) -> String {
        let Self { base, query, .. } = self;
        match query {
            Some(query) => format!("{base}{path}{}{query}", if path.contains('?') { '&' } else { '?' }),
            None => format!("{base}{path}"),
        }
    }

    /// The URL of a page that opens a socket of the browser, which its query names without a scheme.
    fn frontend(&self, url: &str) -> String {
        let (page, query) = url.split_once('?').unwrap_or((url, ""));
        let rewritten = query.split('&').map(|pair| match pair.split_once('=') {
            Some(("ws" | "wss", socket)) => {
                let scheme = if self.is_secure { "wss" } else { "ws" };
                let path = &socket[socket.find('/').unwrap_or(socket.len())..];
                format!("{scheme}={}", encoded(&self.with_query(path)))
            }
            Some(_) | None => pair.to_owned(),
        });
        let query = rewritten.collect::<Vec<_>>().join("&");
        // A page of the browser's own is reached as everything else of it.
        let scheme = if self.is_secure { "https" } else { "http" };
        let page = if page.starts_with('/') { format!("{scheme}://{}{page}", self.base) } else { page.to_owned() };
        if query.is_empty() { page } else { format!("{page}?{query}") }
    }
}

/// The path of a URL, and what follows it.
fn path(url: &str) -> &str {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    &after[after.find('/').unwrap_or(after.len())..]
}

/// A text as it stands in a query. Slashes and colons may stand there, and people read them.
fn encoded(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"/:.-_~@".contains(&byte);
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn public(headers: &[(&str, &str)]) -> Public {
        Public::read(|name| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value))
    }

    const GATEWAY: [(&str, &str); 3] = [
        ("host", "agent"),
        ("landfast-public-url", "https://cell.example/i/ins_1/cdp"),
        ("landfast-public-query", "token=a.b&x=1"),
    ];

    #[test]
    fn every_url_in_an_answer_is_that_of_the_way_to_it() {
        let page = "https://chrome-devtools-frontend.appspot.com/serve_rev/@a21/inspector.html";
        let mut answer = json!([{
            "id": "D6",
            "url": "ws://127.0.0.1:45599/devtools/page/D6",
            "webSocketDebuggerUrl": "ws://127.0.0.1:45599/devtools/page/D6",
            "devtoolsFrontendUrl": format!("{page}?ws=127.0.0.1:45599/devtools/page/D6&panel=x"),
            "more": {"devtoolsFrontendUrl": "/devtools/inspector.html?ws=127.0.0.1:45599/devtools/page/D6"},
        }]);
        let untouched = answer[0]["url"].clone();
        public(&GATEWAY).rewrite(&mut answer);
        let way = "cell.example/i/ins_1/cdp";
        assert_eq!(answer[0]["webSocketDebuggerUrl"], format!("wss://{way}/devtools/page/D6?token=a.b&x=1"));
        let socket = format!("wss={way}/devtools/page/D6%3Ftoken%3Da.b%26x%3D1");
        assert_eq!(answer[0]["devtoolsFrontendUrl"], format!("{page}?{socket}&panel=x"));
        let own = format!("https://{way}/devtools/inspector.html?{socket}");
        assert_eq!(answer[0]["more"]["devtoolsFrontendUrl"], own);
        assert_eq!(answer[0]["url"], untouched, "a page's own address is not the browser's");
    }

    #[test]
    fn without_a_gateway_it_is_the_host_that_was_asked() {
        let socket = "ws://127.0.0.1:1/devtools/browser/x";
        for (headers, base) in [
            (&[("host", "localhost:9222")][..], "ws://localhost:9222"),
            (&[], "ws://localhost"),
            (&[("host", "h"), ("landfast-public-url", "ftp://x")], "ws://h"),
            (&[("host", "h"), ("landfast-public-url", "http://x:1/")], "ws://x:1"),
        ] {
            let mut answer = json!({"webSocketDebuggerUrl": socket});
            public(headers).rewrite(&mut answer);
            assert_eq!(answer["webSocketDebuggerUrl"], format!("{base}/devtools/browser/x"));
        }
    }
}
