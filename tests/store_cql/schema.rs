//! The schema, and what an operator reads when something is wrong with it or with the database.

use std::sync::Arc;

use taskflow::store::cql::{Cql, OpenError, Options, migrate};

use crate::{migrated, options};

/// The sentence with which it does not open.
async fn complaint(options: &Options) -> (OpenError, String) {
    match Cql::open(options, Arc::new(())).await {
        Ok(_) => panic!("it opened"),
        Err(error) => {
            let text = error.to_string();
            (error, text)
        }
    }
}

#[tokio::test]
async fn each_step_is_applied_once_however_many_nodes_start() {
    let options = options("many_at_once");
    let nodes = futures_util::future::join_all((0..4).map(|_| migrate(&options))).await;
    let mut applied: Vec<&str> = Vec::new();
    for migrated in nodes {
        let migrated = migrated.unwrap();
        assert_eq!(migrated.applied.len() + migrated.present.len(), 5);
        applied.extend(migrated.applied);
    }
    applied.sort_unstable();
    assert_eq!(
        applied,
        [
            "0001-feeds",
            "0002-accounts",
            "0003-activity",
            "0004-devices",
            "0005-account-life"
        ]
    );
    let again = migrate(&options).await.unwrap();
    assert_eq!((again.applied.len(), again.present.len()), (0, 5));
    let (one, other) = (
        Cql::open(&options, Arc::new(())).await.unwrap(),
        Cql::open(&options, Arc::new(())).await.unwrap(),
    );
    assert_eq!(one.cluster(), other.cluster(), "all nodes are of one cluster");
    assert_eq!(one.ready().await, Ok(()));
}

async fn ask(options: &Options, statement: &str) {
    let session = scylla::client::session_builder::SessionBuilder::new()
        .known_nodes(&options.nodes)
        .build()
        .await
        .unwrap();
    session.query_unpaged(statement, ()).await.unwrap();
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused_unless_it_was_only_expanded() {
    let options = options("future");
    migrate(&options).await.unwrap();
    ask(
        &options,
        "INSERT INTO future.schema_steps (number, name, needs) VALUES (6, 'x', 5)",
    )
    .await;
    assert!(Cql::open(&options, Arc::new(())).await.is_ok());
    ask(
        &options,
        "INSERT INTO future.schema_steps (number, name, needs) VALUES (7, 'y', 6)",
    )
    .await;
    let (error, text) = complaint(&options).await;
    assert!(matches!(error, OpenError::Future { found: 7, known: 5 }), "{text}");
    assert!(text.contains("a newer TaskFlow"), "{text}");
    assert!(matches!(migrate(&options).await, Err(OpenError::Future { .. })));
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    let (error, text) = complaint(&options("nowhere")).await;
    assert!(matches!(error, OpenError::Keyspace(_)), "{text}");
    assert!(text.contains("taskflow migrate") && text.contains("nowhere"), "{text}");

    let empty = options("empty");
    let make =
        "CREATE KEYSPACE IF NOT EXISTS empty WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    ask(&empty, make).await;
    let (error, text) = complaint(&empty).await;
    assert!(matches!(error, OpenError::Old { found: 0, needed: 5 }), "{text}");
    assert!(text.contains("taskflow migrate"), "{text}");

    let elsewhere = Options {
        datacenter: Some("mars".to_owned()),
        ..migrated().await
    };
    let (error, text) = complaint(&elsewhere).await;
    assert!(matches!(error, OpenError::Datacenter { .. }), "{text}");
    assert!(text.contains("mars") && text.contains("datacenter1"), "{text}");

    let nobody = Options {
        nodes: vec!["127.0.0.1:1".to_owned()],
        ..migrated().await
    };
    let (error, text) = complaint(&nobody).await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{text}");
    assert!(text.contains("127.0.0.1:1") && text.contains("cql_nodes"), "{text}");
}
