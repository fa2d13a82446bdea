//! `POST /kernel/fs/upload`: files in a form, each put in place whole, as it comes.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use http::{Request, Response, StatusCode, header};
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use landfast_core::{ErrorCode, Problem};
use landfast_files::Draft;
use multer::{Constraints, Field, Multipart, SizeLimit, parse_boundary};

use super::super::answer::{Body, Refused, empty};
use super::files::commit;
use crate::Agent;
use crate::files::{Files, Gathered};

/// The longest path in a form.
const PATH_MAX: u64 = 4096;

/// Which file a part of the form is about: its number as the client writes it, or none.
type Number = String;

/// A part's name: `files[0][dest_path]`, `files[][file]`.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Place(Number),
    File(Number),
}

/// Takes the form.
pub(super) async fn post(agent: &Agent, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
    let boundary = parse_boundary(kind).map_err(|error| broken(&error))?;
    let limits = SizeLimit::new().for_field("dest_path", PATH_MAX);
    let body = BodyDataStream::new(request.into_body());
    let mut form = Multipart::with_constraints(body, boundary, Constraints::new().size_limit(limits));
    let mut places: HashMap<Number, VecDeque<String>> = HashMap::new();
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        match Part::read(field.name().unwrap_or(""))? {
            Part::Place(number) => {
                let place = field.text().await.map_err(|error| broken(&error))?;
                places.entry(number).or_default().push_back(place);
            }
            Part::File(number) => {
                let place = places.get_mut(&number).and_then(VecDeque::pop_front);
                let place = place.ok_or_else(|| invalid("A file's dest_path stands before the file."))?;
                land(&agent.files, &place, field).await?;
            }
        }
    }
    Ok(empty(StatusCode::CREATED))
}

async fn land(files: &Files, place: &str, mut field: Field<'_>) -> Result<(), Problem> {
    let place = files.path(Path::new(place))?;
    let (mut draft, mut gathered) = (files.run(move || Draft::at(&place, true)).await?, Gathered::default());
    while let Some(bytes) = field.chunk().await.map_err(|error| broken(&error))? {
        let Some(piece) = gathered.add(&bytes) else { continue };
        (draft, ()) = files.step(draft, move |draft| draft.write(&piece)).await?;
    }
    let rest = gathered.rest();
    files
        .run(move || {
            draft.write(&rest)?;
            draft.commit(&commit(None))
        })
        .await
        .map(drop)
}

impl Part {
    fn read(name: &str) -> Result<Self, Problem> {
        let parts = name.strip_prefix("files[").and_then(|rest| rest.split_once(']'));
        match parts {
            Some((number, "[dest_path]" | ".dest_path")) => Ok(Self::Place(number.to_owned())),
            Some((number, "[file]" | ".file")) => Ok(Self::File(number.to_owned())),
            Some(_) | None => Err(invalid(format!("{name:.50?} is no part of an upload."))),
        }
    }
}

fn broken(error: &multer::Error) -> Problem {
    invalid(format!("The form: {error}."))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_belong_together_by_their_number_or_by_their_order() {
        assert_eq!(Part::read("files[3][file]"), Ok(Part::File("3".into())));
        assert_eq!(Part::read("files[][dest_path]"), Ok(Part::Place(String::new())));
        assert!(Part::read("file").is_err());
    }
}
