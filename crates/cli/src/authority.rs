//! `landfast ca`: the certificates of a cell on several machines.

use std::path::Path;
use std::time::Duration;

use landfast_registry::authority::{self, Role};

use crate::args::{Ca, RoleName};
use crate::failure::Failure;
use crate::print::line;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `landfast ca`.
///
/// # Errors
///
/// What could not be read or written.
pub(crate) fn ca(wish: &Ca) -> Result<(), Failure> {
    match wish {
        Ca::Init { dir } => {
            authority::init(dir)?;
            line(&format!("{}\n", dir.display()));
            eprintln!("ca-key.pem makes members of the cell: keep this folder where none of its machines can read it.");
        }
        Ca::Issue { roles, ca, out, days } => {
            let roles: Vec<Role> = roles.iter().map(|role| role.meant()).collect();
            authority::issue(Path::new(ca), &roles, DAY * *days, out)?;
            line(&format!("{}\n", out.display()));
        }
    }
    Ok(())
}

impl RoleName {
    const fn meant(self) -> Role {
        match self {
            Self::Node => Role::Node,
            Self::Gateway => Role::Gateway,
            Self::Api => Role::Api,
        }
    }
}
