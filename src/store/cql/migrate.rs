//! The schema, in numbered steps that go forward only (`cql/`).
//!
//! Each step is applied by one node at a time, whoever starts: a row that one of them holds for a while says whose turn it
//! is. Every statement may be repeated (`IF NOT EXISTS`), so a node that dies in the middle leaves nothing to clean up.

use std::sync::Arc;
use std::time::Duration;

use scylla::client::session::Session as Driver;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use uuid::Uuid;

use super::session::{Session, connect, is_refusal};
use super::{CqlObserver, OpenError, Options};

/// A step of the schema.
struct Step {
    number: i32,
    name: &'static str,
    /// A build must know at least the steps up to this one to work on a schema with this step. Expanding steps leave it
    /// at what it was, so that nodes of the version before go on; contracting ones raise it to the step that nobody
    /// needs any more.
    needs: i32,
    text: &'static str,
}

/// The steps, in order. What is there is never changed: what must change gets a new step.
const STEPS: [Step; 5] = [
    Step {
        number: 1,
        name: "0001-feeds",
        needs: 1,
        text: include_str!("../../../cql/0001-feeds.cql"),
    },
    Step {
        number: 2,
        name: "0002-accounts",
        needs: 2,
        text: include_str!("../../../cql/0002-accounts.cql"),
    },
    Step {
        number: 3,
        name: "0003-activity",
        // Nodes of the version before work on it: they count nothing.
        needs: 2,
        text: include_str!("../../../cql/0003-activity.cql"),
    },
    Step {
        number: 4,
        name: "0004-devices",
        // Sign-ins of nodes of the version before are listed once they are refreshed.
        needs: 2,
        text: include_str!("../../../cql/0004-devices.cql"),
    },
    Step {
        number: 5,
        name: "0005-account-life",
        // Nodes of the version before know neither personal access tokens nor accounts that are to be deleted: they refuse
        // the ones and let the others sign in.
        needs: 2,
        text: include_str!("../../../cql/0005-account-life.cql"),
    },
];

/// How long one node may hold the turn without saying so again: longer than the slowest statement.
const TURN_SECONDS: i32 = 60;

/// How long to wait before asking for the turn again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What a migration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Steps that were applied now.
    pub applied: Vec<&'static str>,
    /// Steps that were there.
    pub present: Vec<&'static str>,
}

fn refused(what: &str, cause: impl std::fmt::Display) -> OpenError {
    OpenError::Statement {
        what: beginning(what),
        cause: cause.to_string(),
    }
}

/// Only a database that answers has refused something.
fn failed(what: &str, error: &ExecutionError) -> OpenError {
    match error {
        ExecutionError::LastAttemptError(error) if is_refusal(error) => refused(what, error),
        ExecutionError::BadQuery(_) => refused(what, error),
        _ => OpenError::Silent {
            what: beginning(what),
            cause: error.to_string(),
        },
    }
}

fn beginning(statement: &str) -> String {
    statement.split_whitespace().take(6).collect::<Vec<_>>().join(" ")
}

async fn run(driver: &Driver, statement: &str) -> Result<(), OpenError> {
    match driver.query_unpaged(statement, ()).await {
        Ok(_) => Ok(()),
        Err(error) if is_there(statement, &error) => Ok(()),
        Err(error) => Err(failed(statement, &error)),
    }
}

/// A column that another node added before it died: not every database knows `ADD IF NOT EXISTS`.
fn is_there(statement: &str, error: &ExecutionError) -> bool {
    let ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, text)) = error else {
        return false;
    };
    statement.starts_with("ALTER TABLE")
        && (text.contains("already exist") || text.contains("conflicts with an existing"))
}

/// Makes the keyspace if there is none, and applies the steps that it lacks.
pub async fn migrate(options: &Options) -> Result<Migrated, OpenError> {
    let driver = Box::pin(connect(options)).await?;
    make_keyspace(&driver, options).await?;
    drop(driver);
    let session = Box::pin(Session::bare(options, Arc::new(()) as Arc<dyn CqlObserver>)).await?;
    let driver = &session.driver;
    run(
        driver,
        "CREATE TABLE IF NOT EXISTS schema_steps (number int PRIMARY KEY, name text, needs int)",
    )
    .await?;
    run(
        driver,
        "CREATE TABLE IF NOT EXISTS schema_turn (name text PRIMARY KEY, owner uuid)",
    )
    .await?;
    let agreement = |error: &dyn std::fmt::Display| refused("schema agreement", format!("{error}: are all nodes up?"));
    driver
        .await_schema_agreement()
        .await
        .map_err(|error| agreement(&error))?;
    let mut migrated = Migrated::default();
    let me = Uuid::new_v4();
    for Step {
        number,
        name,
        needs,
        text,
    } in STEPS
    {
        loop {
            if schema(&session).await?.last >= number {
                migrated.present.push(name);
                break;
            }
            if !take_turn(driver, me).await? {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            }
            // It may have been done while this one waited for its turn.
            if schema(&session).await?.last < number {
                for statement in statements(text) {
                    run(driver, &statement).await?;
                }
                driver
                    .await_schema_agreement()
                    .await
                    .map_err(|error| agreement(&error))?;
                run(
                    driver,
                    &format!(
                        "INSERT INTO schema_steps (number, name, needs) VALUES ({number}, '{name}', {needs}) IF NOT EXISTS"
                    ),
                )
                .await?;
                migrated.applied.push(name);
            } else {
                migrated.present.push(name);
            }
            break;
        }
    }
    run(
        driver,
        &format!("DELETE FROM schema_turn WHERE name = 'migrate' IF owner = {me}"),
    )
    .await?;
    check(&session).await?;
    Ok(migrated)
}

async fn make_keyspace(driver: &Driver, options: &Options) -> Result<(), OpenError> {
    let known = driver.get_cluster_state().get_keyspace(&options.keyspace).is_some();
    if known {
        return Ok(());
    }
    let datacenter = match &options.datacenter {
        Some(datacenter) => datacenter.clone(),
        None => {
            let state = driver.get_cluster_state();
            let first = state.get_nodes_info().iter().find_map(|node| node.datacenter.clone());
            first.unwrap_or_else(|| "datacenter1".to_owned())
        }
    };
    let replication = options.replication;
    let mut statement = format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'NetworkTopologyStrategy', '{datacenter}': {replication}}}",
        options.keyspace
    );
    if let Some(version) = scylla_version(driver).await {
        // Conditional updates on tables with tablets came with 2025.4 (scylladb/scylladb#18068, #24819).
        let enabled = version >= (2025, 4);
        statement.push_str(&format!(" AND tablets = {{'enabled': {enabled}}}"));
    }
    run(driver, &statement).await?;
    driver
        .await_schema_agreement()
        .await
        .map(drop)
        .map_err(|error| refused(&statement, error))
}

/// The release of ScyllaDB, as year and number; `None`: it is something else, or too old to matter.
async fn scylla_version(driver: &Driver) -> Option<(u32, u32)> {
    // Only ScyllaDB has this table.
    let result = driver
        .query_unpaged("SELECT version FROM system.versions LIMIT 1", ())
        .await
        .ok()?;
    let rows = result.into_rows_result().ok()?;
    let (version,) = rows.maybe_first_row::<(String,)>().ok()??;
    let mut numbers = version.split('.').map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Asks for the turn, or for more time if this node has it.
async fn take_turn(driver: &Driver, me: Uuid) -> Result<bool, OpenError> {
    let insert = format!(
        "INSERT INTO schema_turn (name, owner) VALUES ('migrate', {me}) IF NOT EXISTS USING TTL {TURN_SECONDS}"
    );
    let renew =
        format!("UPDATE schema_turn USING TTL {TURN_SECONDS} SET owner = {me} WHERE name = 'migrate' IF owner = {me}");
    for statement in [&insert, &renew] {
        match driver.query_unpaged(statement.as_str(), ()).await {
            Ok(result) => {
                let applied = super::log::applied(result).map_err(|error| refused(statement, error))?;
                if matches!(applied, super::log::Applied::Yes) {
                    return Ok(true);
                }
            }
            // Many ask at once: whoever lost the race asks again.
            Err(error) if error.to_string().contains("timed out") || error.to_string().contains("timeout") => {}
            Err(error) => return Err(failed(statement, &error)),
        }
    }
    Ok(false)
}

/// The statements of a step: what stands between semicolons, without comments.
fn statements(text: &str) -> Vec<String> {
    let code: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    let code = code.join("\n");
    code.split(';')
        .map(str::trim)
        .filter(|statement| !statement.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What schema there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Schema {
    /// The last step that was applied; 0: none.
    last: i32,
    /// The steps that a build must know to work on it.
    needs: i32,
}

async fn schema(session: &Session) -> Result<Schema, OpenError> {
    const SELECT: &str = "SELECT number, needs FROM schema_steps";
    let mut statement = scylla::statement::Statement::new(SELECT);
    statement.set_consistency(scylla::statement::Consistency::LocalQuorum);
    let result = match session.driver.query_unpaged(statement, ()).await {
        Ok(result) => result,
        // The table is not there: nothing was ever applied.
        Err(error) if error.to_string().contains("does not exist") || error.to_string().contains("unconfigured") => {
            return Ok(Schema::default());
        }
        Err(error) => return Err(failed(SELECT, &error)),
    };
    let rows = result.into_rows_result().map_err(|error| refused(SELECT, error))?;
    let rows = rows
        .rows::<(i32, Option<i32>)>()
        .map_err(|error| refused(SELECT, error))?;
    let max = |schema: Schema, (number, needs): (i32, Option<i32>)| Schema {
        last: schema.last.max(number),
        needs: schema.needs.max(needs.unwrap_or(number)),
    };
    Ok(rows.flatten().fold(Schema::default(), max))
}

/// Refuses a schema that this build does not work on.
pub(super) async fn check(session: &Session) -> Result<(), OpenError> {
    let found = schema(session).await?;
    judge(found, STEPS.last().map_or(0, |step| step.number))
}

fn judge(found: Schema, known: i32) -> Result<(), OpenError> {
    if found.last < known {
        return Err(OpenError::Old {
            found: found.last,
            needed: known,
        });
    }
    if found.needs > known {
        return Err(OpenError::Future {
            found: found.last,
            known,
        });
    }
    Ok(())
}

/// The random number of this cluster's store: made by whoever comes first.
pub(super) async fn cluster_id(session: &Session) -> Result<u64, OpenError> {
    let id: i64 = rand::random();
    let insert = format!("INSERT INTO cluster (name, value) VALUES ('id', {id}) IF NOT EXISTS");
    // Of several who come at once, the answers of some may be lost: what is there counts.
    let _ = session.driver.query_unpaged(insert, ()).await;
    const SELECT: &str = "SELECT value FROM cluster WHERE name = 'id'";
    let mut statement = scylla::statement::Statement::new(SELECT);
    statement.set_consistency(scylla::statement::Consistency::LocalSerial);
    let result = session.driver.query_unpaged(statement, ()).await;
    let rows = result
        .map_err(|error| refused(SELECT, error))?
        .into_rows_result()
        .map_err(|error| refused(SELECT, error))?;
    let (value,) = rows.first_row::<(i64,)>().map_err(|error| refused(SELECT, error))?;
    Ok(value.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_numbered_without_a_gap_and_hold_statements_alone() {
        for (index, step) in STEPS.iter().enumerate() {
            let name = step.name;
            assert_eq!(step.number, index as i32 + 1);
            assert!(step.needs <= step.number && name.starts_with(&format!("{:04}-", step.number)));
            let statements = statements(step.text);
            assert!(!statements.is_empty());
            for statement in statements {
                // A column that is there already is no error: see `is_there`.
                let adds_column = statement.starts_with("ALTER TABLE") && statement.contains(" ADD ");
                assert!(
                    statement.contains("IF NOT EXISTS") || adds_column,
                    "{name} cannot be repeated: {statement}"
                );
            }
        }
    }

    #[test]
    fn a_build_works_on_a_schema_that_was_only_expanded_since() {
        let schema = |last, needs| Schema { last, needs };
        assert!(judge(schema(2, 2), 2).is_ok());
        assert!(judge(schema(3, 2), 2).is_ok(), "a newer version made room for itself");
        assert!(matches!(
            judge(schema(1, 1), 2),
            Err(OpenError::Old { found: 1, needed: 2 })
        ));
        assert!(matches!(
            judge(schema(4, 3), 2),
            Err(OpenError::Future { found: 4, known: 2 })
        ));
    }
}
