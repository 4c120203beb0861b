//! A database that asks who comes, talks behind a certificate, and counts what was deleted.

use std::path::Path;
use std::sync::Arc;

use scylla::client::session_builder::SessionBuilder;
use taskflow::store::cql::{Cql, OpenError, Options, migrate};
use taskflow_actors::ports::{Head, Retention, Store as _};
use taskflow_protocol::UserId;
use uuid::Uuid;

use crate::races::append;
use crate::services::Cassandra;

/// What the database's own login may do is everything.
fn admin(database: &Cassandra) -> Options {
    let login = ("cassandra".to_owned(), "cassandra".to_owned());
    Options {
        nodes: database.nodes.clone(),
        keyspace: "secured".to_owned(),
        replication: 1,
        login: Some(login),
        tls_ca: Some(database.folder.join("tls/ca.pem")),
        ..Options::default()
    }
}

async fn complaint(options: Options) -> (OpenError, String) {
    let error = match migrate(&options).await {
        Ok(migrated) => panic!("{migrated:?}"),
        Err(error) => error,
    };
    let text = error.to_string();
    (error, text)
}

async fn ask(database: &Cassandra, statement: &str) {
    let session = SessionBuilder::new()
        .known_nodes(&database.nodes)
        .user("cassandra", "cassandra")
        .build()
        .await
        .unwrap();
    session.query_unpaged(statement, ()).await.unwrap();
}

/// A certificate that nobody has signed anything with.
fn stranger(folder: &Path) -> std::path::PathBuf {
    let (key, certificate) = (folder.join("stranger.key"), folder.join("stranger.pem"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args(["-subj", "/CN=stranger", "-days", "2", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    certificate
}

#[tokio::test]
async fn login_certificate_and_permissions_are_needed_and_what_is_wrong_is_named() {
    let settings = [
        ("CASSANDRA_AUTH", "1"),
        ("CASSANDRA_TLS", "1"),
        // A log that is cut again and again must not become slow to read.
        (
            "CASSANDRA_YAML",
            "tombstone_warn_threshold: 20\ntombstone_failure_threshold: 50",
        ),
    ];
    let database = Cassandra::start_with(1, &settings);
    let admin = admin(&database);
    migrate(&admin).await.unwrap();
    let cql = Cql::open(&admin, Arc::new(())).await.unwrap();

    cuts_leave_nothing_to_read(&cql).await;

    let wrong = ("cassandra".to_owned(), "wrong".to_owned());
    for login in [Some(wrong), None] {
        let (error, text) = complaint(Options { login, ..admin.clone() }).await;
        assert!(matches!(error, OpenError::Unreachable { .. }), "{text}");
        assert!(text.contains("credentials") || text.contains("cql_user"), "{text}");
        assert!(text.contains("cql_password_file"), "{text}");
    }

    let (error, text) = complaint(Options {
        tls_ca: Some(stranger(&database.folder)),
        ..admin.clone()
    })
    .await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{text}");
    assert!(text.contains("certificate") && text.contains("cql_tls_ca"), "{text}");

    let missing = complaint(Options {
        tls_ca: Some(database.folder.join("nowhere.pem")),
        ..admin.clone()
    });
    let (error, text) = missing.await;
    assert!(matches!(error, OpenError::Tls { .. }), "{text}");
    assert!(text.contains("nowhere.pem") && text.contains("cql_tls_ca"), "{text}");

    ask(&database, "CREATE ROLE reader WITH PASSWORD = 'reads' AND LOGIN = true").await;
    let reader = Options {
        login: Some(("reader".to_owned(), "reads".to_owned())),
        ..admin
    };
    let (error, text) = complaint(reader.clone()).await;
    assert!(matches!(error, OpenError::Statement { .. }), "{text}");
    assert!(
        text.contains("reader") && text.contains("MODIFY on the keyspace"),
        "{text}"
    );
    let error = Cql::open(&reader, Arc::new(())).await.err().unwrap().to_string();
    assert!(error.contains("reader") && error.contains("SELECT"), "{error}");
}

/// Each cut is a tombstone: one that covers all before it, so that they never add up.
async fn cuts_leave_nothing_to_read(cql: &Cql) {
    let feed = UserId(Uuid::new_v4());
    let cut_all = Retention {
        keep_since: i64::MAX,
        cut_before: i64::MAX,
        commits_max: 1,
        bytes_max: 1,
    };
    for base in 0..120 {
        cql.append(append(feed, base, base + 1)).await.unwrap();
        cql.write_rows(feed, Vec::new(), base + 1).await.unwrap();
        cql.trim(feed, cut_all).await.unwrap();
    }
    let loaded = cql.load(feed, i64::MAX).await.unwrap().unwrap();
    assert!(
        matches!(
            loaded.head,
            Head {
                seq: 120,
                first: 110..,
                ..
            }
        ),
        "{:?}",
        loaded.head
    );
    let page = cql
        .read_log(feed, loaded.head.first - 1, 1 << 20)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(page.head.seq, 120);
}
