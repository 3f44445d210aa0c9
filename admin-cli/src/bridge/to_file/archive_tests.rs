use std::io::Read;

use flate2::read::MultiGzDecoder;
use tempfile::TempDir;

use super::super::names::Parts;
use super::*;

struct Place {
    folder: TempDir,
    layout: Layout,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let output_dir = folder.path().join("out");
        let layout = Layout {
            work_dir: output_dir.clone(),
            output_dir,
            compress: None,
            record: RecordStyle::default(),
            rotate_bytes: 0,
            rotate_interval: Duration::ZERO,
            rotate_size_of: SizeOf::Raw,
            retain: Vec::new(),
            on_rotate: None,
        };
        Place { folder, layout }
    }

    fn with_work_dir(mut self) -> Self {
        self.layout.work_dir = self.folder.path().join("work");
        self
    }

    fn compressed(mut self, compress: Compress) -> Self {
        self.layout.compress = Some(compress);
        self
    }

    fn archive(&self) -> Archive {
        let layout = &self.layout;
        let is_rotated = layout.compress.is_some() || layout.rotate_bytes > 0 || layout.moves();
        let names = FileNames::new(&Parts {
            filename_format: "<TOPIC><REV>.log",
            datetime_format: "",
            host_identifier: "",
            hostname: "h",
            pid: 1,
            topic: "t",
            ending: layout.compress.map_or("", Compress::ending),
            needs_revision: is_rotated,
        });
        let layout = Arc::new(layout.clone());
        Archive::new(layout, names.unwrap(), ["t", "c"], Logger::silent(), Arc::default())
    }

    /// The files of a folder with their contents, decompressed.
    fn files(&self, folder: &str) -> Vec<(String, String)> {
        let Ok(entries) = fs::read_dir(self.folder.path().join(folder)) else { return Vec::new() };
        let mut files: Vec<_> = entries
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let mut text = String::new();
                let mut file = File::open(&path).unwrap();
                match path.extension().and_then(|ending| ending.to_str()) {
                    Some("gz") => MultiGzDecoder::new(file).read_to_string(&mut text).unwrap(),
                    Some("zst") => {
                        zstd::stream::read::Decoder::new(file).unwrap().read_to_string(&mut text).unwrap()
                    }
                    _ => file.read_to_string(&mut text).unwrap(),
                };
                (name, text)
            })
            .collect();
        files.sort();
        files
    }
}

fn records(lines: &[&str]) -> Records {
    let mut records = Records::default();
    for line in lines {
        records.push_raw(format!("{line}\n").as_bytes());
    }
    records
}

fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn plain_file_is_appended_to_by_later_runs() {
    let place = Place::new();
    for line in ["a", "b"] {
        let mut archive = place.archive();
        assert!(archive.append(&records(&[line])).unwrap());
        assert!(!archive.append(&records(&["x"])).unwrap());
        archive.close().unwrap();
    }
    assert_eq!(place.files("out"), pairs(&[("t.log", "a\nx\nb\nx\n")]));
}

#[test]
fn torn_record_is_never_continued() {
    let place = Place::new();
    fs::create_dir(&place.layout.output_dir).unwrap();
    fs::write(place.layout.output_dir.join("t.log"), "whole\ntor").unwrap();
    let mut archive = place.archive();
    archive.recover().unwrap();
    archive.append(&records(&["next"])).unwrap();
    archive.close().unwrap();
    assert_eq!(place.files("out"), pairs(&[("t-000001.log", "next\n"), ("t.log", "whole\ntor")]));
}

#[test]
fn file_of_another_writer_is_left_alone() {
    let place = Place::new();
    let (mut first, mut second) = (place.archive(), place.archive());
    first.append(&records(&["first"])).unwrap();
    second.append(&records(&["second"])).unwrap();
    first.append(&records(&["first again"])).unwrap();
    first.close().unwrap();
    second.close().unwrap();
    let expected = pairs(&[("t-000001.log", "second\n"), ("t.log", "first\nfirst again\n")]);
    assert_eq!(place.files("out"), expected);
}

#[test]
fn size_limit_starts_the_next_revision_before_a_record() {
    let mut place = Place::new();
    place.layout.rotate_bytes = 5;
    let mut archive = place.archive();
    archive.append(&records(&["aaa", "bbb", "c", "d"])).unwrap();
    archive.close().unwrap();
    assert_eq!(place.files("out"), pairs(&[("t-000000.log", "aaa\nbbb\n"), ("t-000001.log", "c\nd\n")]));
    // A later run skips the full file, and fills the other.
    let mut archive = place.archive();
    archive.append(&records(&["e"])).unwrap();
    archive.close().unwrap();
    assert_eq!(place.files("out")[1].1, "c\nd\ne\n");
}

#[test]
fn each_sync_ends_a_member_and_files_are_never_reused() {
    for compress in [Compress::Gzip(6), Compress::Zstd(3)] {
        let name = |revision: u32| format!("t-{revision:06}.log{}", compress.ending());
        let place = Place::new().compressed(compress);
        let mut archive = place.archive();
        archive.append(&records(&["a"])).unwrap();
        archive.sync().unwrap();
        // What a reader sees before the file is closed.
        assert_eq!(place.files("out"), pairs(&[(&name(0), "a\n")]));
        archive.append(&records(&["b"])).unwrap();
        archive.close().unwrap();
        let mut archive = place.archive();
        archive.rotate_now().unwrap();
        archive.close().unwrap();
        assert_eq!(place.files("out"), pairs(&[(&name(0), "a\nb\n"), (&name(1), "")]));
    }
}

#[test]
fn finished_files_are_moved_and_overwrite_nothing() {
    let place = Place::new().with_work_dir();
    let mut archive = place.archive();
    archive.append(&records(&["a"])).unwrap();
    fs::write(place.layout.output_dir.join("t-000000.log"), "of someone else\n").unwrap();
    archive.close().unwrap();
    archive.append(&records(&["b"])).unwrap();
    archive.close().unwrap();
    assert_eq!(place.files("work"), []);
    let texts: Vec<_> = place.files("out").into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["of someone else\n", "a\n", "b\n"]);
}

#[test]
fn killed_run_is_finished_by_the_next_one() {
    for (moves, compress) in [false, true]
        .into_iter()
        .flat_map(|moves| [Compress::Gzip(6), Compress::Zstd(3)].map(|compress| (moves, compress)))
    {
        let mut place = Place::new().compressed(compress);
        if moves {
            place = place.with_work_dir();
        }
        let mut archive = place.archive();
        archive.append(&records(&["synced"])).unwrap();
        archive.sync().unwrap();
        archive.append(&records(&["not synced"])).unwrap();
        let open = archive.open.as_mut().unwrap();
        if let Encoder::Compressed { member: Some(member), .. } = &mut open.encoder {
            match &mut **member {
                Member::Gzip(encoder) => encoder.flush().unwrap(),
                Member::Zstd(encoder) => encoder.flush().unwrap(),
            }
        }
        open.write_out().unwrap();
        // A second process must not touch the file of a living one.
        place.archive().recover().unwrap();
        let written = open.written;
        assert_eq!(open.file.metadata().unwrap().len(), written);
        drop(archive);
        place.archive().recover().unwrap();
        assert_eq!(
            place.files("out"),
            pairs(&[(&format!("t-000000.log{}", compress.ending()), "synced\n")]),
            "{moves}"
        );
        assert_eq!(place.files("work"), []);
    }
}

#[test]
fn abandoned_file_keeps_what_was_synced() {
    let place = Place::new();
    let mut archive = place.archive();
    archive.append(&records(&["a"])).unwrap();
    archive.sync().unwrap();
    archive.append(&records(&["b"])).unwrap();
    archive.abandon().unwrap();
    archive.append(&records(&["b"])).unwrap();
    archive.abandon().unwrap();
    archive.append(&records(&["b"])).unwrap();
    archive.close().unwrap();
    assert_eq!(place.files("out"), pairs(&[("t-000002.log", "b\n"), ("t.log", "a\n")]));
}

#[test]
fn size_limit_counts_the_bytes_of_the_file() {
    let mut place = Place::new().compressed(Compress::Gzip(6));
    place.layout.rotate_bytes = 100;
    let line = "x".repeat(5000);
    for (size_of, count) in [(SizeOf::Raw, 3), (SizeOf::File, 4)] {
        place.layout.rotate_size_of = size_of;
        let mut archive = place.archive();
        for _ in 0..3 {
            archive.append(&records(&[&line])).unwrap();
            archive.sync().unwrap();
        }
        archive.close().unwrap();
        // 5001 bytes become fewer than 50: three members fit into one file.
        assert_eq!(place.files("out").len(), count, "{size_of:?}");
    }
}

#[test]
fn finished_files_are_passed_to_the_command_and_the_oldest_are_deleted() {
    let mut place = Place::new().with_work_dir();
    let list = place.folder.path().join("list");
    place.layout.rotate_bytes = 1;
    place.layout.retain = vec![Retain::Bytes(10)];
    place.layout.on_rotate = Some(format!("echo \"$NSQ_TOPIC $1\" >> {}; exit 3", list.display()));
    let foreign = place.layout.output_dir.join("tt-000000.log");
    fs::create_dir(&place.layout.output_dir).unwrap();
    fs::write(&foreign, "of another topic\n").unwrap();
    let mut archive = place.archive();
    archive.append(&records(&["aaaa", "bbbb", "cccc"])).unwrap();
    archive.close().unwrap();
    let kept =
        [("t-000001.log", "bbbb\n"), ("t-000002.log", "cccc\n"), ("tt-000000.log", "of another topic\n")];
    assert_eq!(place.files("out"), pairs(&kept));
    assert_eq!((archive.counts.deleted.get(), archive.counts.failed_commands.get()), (1, 3));
    let line = |revision: u32| {
        format!("t {}\n", place.layout.output_dir.join(format!("t-{revision:06}.log")).display())
    };
    assert_eq!(fs::read_to_string(list).unwrap(), line(0) + &line(1) + &line(2));
}

#[test]
fn old_files_are_deleted_by_age_but_not_while_they_are_written() {
    let mut place = Place::new();
    place.layout.rotate_bytes = 1;
    place.layout.retain = vec![Retain::Age(Duration::from_nanos(1))];
    let mut archive = place.archive();
    archive.append(&records(&["aa"])).unwrap();
    archive.retain_if_due();
    assert_eq!(place.files("out"), pairs(&[("t-000000.log", "aa\n")]));
    archive.append(&records(&["bb"])).unwrap();
    assert_eq!(place.files("out"), pairs(&[("t-000001.log", "bb\n")]));
}
