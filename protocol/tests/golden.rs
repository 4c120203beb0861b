//! The wire is a promise: the bytes of every variant, in both encodings, are kept in `protocol/golden`.
//!
//! This run never writes. `cargo run -p taskflow-protocol --example golden` adds files for new variants and refuses to
//! change what is there.

#[path = "common/catalog.rs"]
#[allow(dead_code, reason = "the example that writes the files uses the rest of it")]
mod catalog;

use std::collections::BTreeSet;
use std::path::PathBuf;

use catalog::{ENCODINGS, catalog, folders};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

#[test]
fn every_golden_file_decodes_to_its_document_and_encodes_to_the_same_bytes() {
    let mut wrong = Vec::new();
    for golden in catalog() {
        for (encoding, end) in ENCODINGS {
            let path = root().join(golden.folder).join(format!("{}.{end}", golden.name));
            let outcome = std::fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|bytes| (golden.check)(encoding, &bytes));
            if let Err(reason) = outcome {
                wrong.push(format!("{}: {reason}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_variant_has_a_document_in_the_catalog() {
    let have: BTreeSet<_> = catalog()
        .iter()
        .map(|golden| (golden.folder, golden.variant().to_owned()))
        .collect();
    let want: BTreeSet<_> = folders()
        .into_iter()
        .flat_map(|(folder, names)| names.iter().map(move |name| (folder, (*name).to_owned())))
        .collect();
    assert_eq!(have, want);
}

#[test]
fn the_golden_folder_holds_the_catalog_and_nothing_else() {
    let want: BTreeSet<_> = catalog()
        .iter()
        .flat_map(|golden| ENCODINGS.map(|(_, end)| format!("{}/{}.{end}", golden.folder, golden.name)))
        .collect();
    let mut have = BTreeSet::new();
    for folder in std::fs::read_dir(root()).expect("protocol/golden is there") {
        let folder = folder.expect("a readable entry");
        if !folder.file_type().expect("a type").is_dir() {
            continue;
        }
        for file in std::fs::read_dir(folder.path()).expect("a readable folder") {
            let file = file.expect("a readable entry");
            have.insert(format!(
                "{}/{}",
                folder.file_name().to_string_lossy(),
                file.file_name().to_string_lossy()
            ));
        }
    }
    assert_eq!(have, want);
}

#[test]
fn names_of_documents_are_unique() {
    let mut seen = BTreeSet::new();
    for golden in catalog() {
        assert!(
            seen.insert((golden.folder, golden.name.clone())),
            "{}/{} is there twice",
            golden.folder,
            golden.name
        );
    }
}
