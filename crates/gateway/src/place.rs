//! What a request is for, by its path.

use http::Uri;
use http::uri::PathAndQuery;
use landfast_core::{ErrorCode, InstanceId, Problem};

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The control plane.
    Api,
    /// An instance, and the path inside it.
    Instance(InstanceId, Uri),
}

impl Place {
    /// Finds the place of a request.
    ///
    /// # Errors
    ///
    /// `request.not_found`, or `request.invalid` for an instance that cannot be one.
    pub(crate) fn of(uri: &Uri) -> Result<Self, Problem> {
        let path = uri.path();
        if path == "/v1" || path.starts_with("/v1/") {
            return Ok(Self::Api);
        }
        let inside = path.strip_prefix("/i/").ok_or(ErrorCode::RequestNotFound)?;
        let id = inside.split_once('/').map_or(inside, |(id, _)| id);
        let instance = id.parse().map_err(|error| {
            Problem::new(ErrorCode::RequestInvalid, format!("The instance in the path is not one: {error}."))
        })?;
        Ok(Self::Instance(instance, target(&inside[id.len()..], uri.query())?))
    }
}

/// A target inside an instance, as it stands in a request inside a request.
///
/// # Errors
///
/// `request.invalid`.
pub(crate) fn inner(text: &str) -> Result<Uri, Problem> {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    if !path.starts_with('/') {
        return Err(Problem::new(ErrorCode::RequestInvalid, "The target of the inner request begins with no slash."));
    }
    target(path, query)
}

/// The path inside an instance, with its query.
fn target(path: &str, query: Option<&str>) -> Result<Uri, Problem> {
    let path = if path.is_empty() { "/" } else { path };
    // A program that reads a path in another way than we do could be led past a token's scope.
    if path.contains("//") || has_dots(path) {
        return Err(Problem::new(ErrorCode::RequestInvalid, "The path has an empty or a dot segment."));
    }
    let target = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let target = PathAndQuery::try_from(target).map_err(|error| {
        Problem::new(ErrorCode::RequestInvalid, format!("The path inside the instance is not one: {error}."))
    })?;
    Ok(Uri::from(target))
}

/// Whether a segment is `.` or `..`, however it is written.
fn has_dots(path: &str) -> bool {
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    plain.split(['/', '\\']).any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "ins_00000000000000000000000000";

    fn place(text: &str) -> Result<Place, ErrorCode> {
        Place::of(&text.parse().unwrap()).map_err(|problem| problem.code)
    }

    #[test]
    fn the_path_inside_an_instance_keeps_its_bytes_and_query() {
        for (outside, inside) in
            [("", "/"), ("/", "/"), ("/processes/%2f?from=now", "/processes/%2f?from=now"), ("?a", "/?a")]
        {
            let expected = Place::Instance(ID.parse().unwrap(), inside.parse().unwrap());
            assert_eq!(place(&format!("/i/{ID}{outside}")), Ok(expected), "{outside}");
        }
    }

    #[test]
    fn what_is_nowhere_is_said_to_be_so() {
        assert_eq!(place("/"), Err(ErrorCode::RequestNotFound));
        assert_eq!(place("/v10/x"), Err(ErrorCode::RequestNotFound));
        assert_eq!(place("/i/nod_1/x"), Err(ErrorCode::RequestInvalid));
    }

    #[test]
    fn the_control_plane_is_below_its_version() {
        assert_eq!((place("/v1"), place("/v1/a/b")), (Ok(Place::Api), Ok(Place::Api)));
    }

    #[test]
    fn a_path_that_may_be_read_in_two_ways_is_refused() {
        for path in ["/processes/../exec", "/a/%2e%2E/b", "/a//b", "/./a", "/a/.%2e", "/a/..%2Fb", "/a%5c.."] {
            assert_eq!(place(&format!("/i/{ID}{path}")), Err(ErrorCode::RequestInvalid), "{path}");
        }
        assert!(place(&format!("/i/{ID}/a/...")).is_ok());
    }

    proptest! {
        #[test]
        fn no_uri_makes_it_panic(text in "/(i/)?[a-z0-9_/.%?&=-]{0,60}") {
            if let Ok(uri) = text.parse() {
                let _ = Place::of(&uri);
            }
        }
    }
}
