//! The verbs of whoever runs the cell: its nodes, and who may use it.

use landfast_client::{ApiKey, Client};
use landfast_net::clock::unix_millis;
use serde_json::json;

use crate::args::{Format, Key};
use crate::failure::Failure;
use crate::print::{Paint, age, answer, line, table};

/// `landfast node drain`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn drain(client: &Client, node: &str) -> Result<(), Failure> {
    client.drain_node(node).await?;
    line(&format!("{node}\n"));
    Ok(())
}

/// `landfast node undrain`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn undrain(client: &Client, node: &str) -> Result<(), Failure> {
    client.undrain_node(node).await?;
    line(&format!("{node}\n"));
    Ok(())
}

/// `landfast key`.
///
/// # Errors
///
/// The refusal.
pub(crate) async fn key(client: &Client, wish: Key, paint: Paint) -> Result<(), Failure> {
    match wish {
        Key::Create { name, output } => {
            let made = client.create_api_key(&name).await?;
            answer(output.format, &made, || made.key.clone());
            if output.format == Format::Text && crate::terminal::is_seen() {
                eprintln!("It is shown this once. landfast key rm {} takes it back", made.id);
            }
        }
        Key::Ls { output } => {
            let keys = client.api_keys().await?;
            let now = unix_millis();
            answer(output.format, &json!({ "items": keys }), || {
                table(
                    paint,
                    &["ID", "NAME", "AGE", "CURRENT"],
                    &keys.iter().map(|key| row(key, now)).collect::<Vec<_>>(),
                )
            });
        }
        Key::Rm { ids } => {
            for id in ids {
                client.remove_api_key(id).await?;
                line(&format!("{id}\n"));
            }
        }
    }
    Ok(())
}

fn row(key: &ApiKey, now: u64) -> Vec<String> {
    let current = if key.current { "yes" } else { "" };
    vec![key.id.to_string(), key.name.clone(), age(key.created_at, now), current.to_owned()]
}
