//! Files and links in temporary folders.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::*;

const NOTE: Kind = Kind { name: "a note", content: Content::Text, recognizes: |head| head.starts_with(b"note: ") };

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    path.to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn put(path: &Path, text: &str) -> Result<(), OutputError> {
    Outputs::new(Replace::SameKind).claim("-o", path, NOTE)?.write(text.as_bytes())
}

#[track_caller]
fn refused(claimed: Result<Output, OutputError>, says: &[&str]) {
    let error = claimed.unwrap_err().to_string();
    assert!(says.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn a_new_file_appears_when_it_is_complete() {
    let folder = folder();
    let path = folder.path().join("a.txt");
    let mut file = Output::at(&path, NOTE, Replace::SameKind).unwrap().create().unwrap();
    file.write_all(b"note: one").unwrap();
    assert_eq!(names(folder.path()), [""; 0], "the file has no name yet");
    file.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"note: one");
    assert_eq!(names(folder.path()), ["a.txt"]);
    let sample = write(&folder.path().join("sample"), "");
    let of_umask = fs::metadata(sample).unwrap().mode() & !0o022;
    assert_eq!(fs::metadata(&path).unwrap().mode(), of_umask, "the umask applies, and others cannot write");
    let path = folder.path().join("private");
    let private = Kind { content: Content::Private, ..NOTE };
    Output::at(&path, private, Replace::SameKind).unwrap().write(b"note: mine").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_file_that_is_given_up_leaves_the_old_one() {
    let folder = folder();
    let path = write(&folder.path().join("a.txt"), "note: old");
    let mut file = Output::at(&path, NOTE, Replace::SameKind).unwrap().create().unwrap();
    file.write_all(b"note: new").unwrap();
    drop(file);
    assert_eq!((fs::read(&path).unwrap(), names(folder.path())), (b"note: old".to_vec(), vec!["a.txt".to_owned()]));
}

#[test]
fn the_mode_stays_and_links_are_followed() {
    let folder = folder();
    let path = write(&folder.path().join("a.txt"), "note: old");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    fs::create_dir(folder.path().join("links")).unwrap();
    let (link, again) = (folder.path().join("links/b.txt"), folder.path().join("c.txt"));
    symlink("../a.txt", &link).unwrap();
    symlink("links/b.txt", &again).unwrap();
    put(&again, "note: new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"note: new");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
    assert!(link.is_symlink() && again.is_symlink());
    // A link to a file that does not exist yet creates the file.
    let dangling = folder.path().join("d.txt");
    symlink("links/new.txt", &dangling).unwrap();
    put(&dangling, "note: first").unwrap();
    assert_eq!(fs::read(folder.path().join("links/new.txt")).unwrap(), b"note: first");
    assert_eq!(names(folder.path()), ["a.txt", "c.txt", "d.txt", "links"]);
}

#[test]
fn inputs_are_refused_under_every_name() {
    let folder = folder();
    let input = write(&folder.path().join("in.txt"), "note: input");
    let (hard, soft) = (folder.path().join("hard.txt"), folder.path().join("soft.txt"));
    fs::hard_link(&input, &hard).unwrap();
    symlink(&input, &soft).unwrap();
    let dotted = folder.path().join("../").join(folder.path().file_name().unwrap()).join("in.txt");
    for replace in [Replace::SameKind, Replace::AnyFile] {
        for path in [&input, &hard, &soft, &dotted] {
            let mut outputs = Outputs::new(replace);
            outputs.reads(&input);
            refused(outputs.claim("-o", path, NOTE), &["-o ", "is an input of this command"]);
        }
    }
    assert_eq!(fs::read(&input).unwrap(), b"note: input");
}

#[test]
fn files_of_an_input_folder_are_inputs() {
    let (folder, elsewhere) = (folder(), folder());
    fs::create_dir(folder.path().join("blobs")).unwrap();
    let shard = write(&folder.path().join("blobs/1.bin"), "weights");
    let link = folder.path().join("model.safetensors");
    symlink(&shard, &link).unwrap();
    let own = write(&folder.path().join("own.txt"), "note: of an earlier run");
    let hard = elsewhere.path().join("hard.bin");
    fs::hard_link(&shard, &hard).unwrap();
    let claim = |path: &Path| {
        let mut outputs = Outputs::new(Replace::AnyFile);
        outputs.reads(folder.path());
        outputs.claim("-o", path, NOTE)
    };
    for path in [&shard, &link, &hard] {
        refused(claim(path), &["is an input of this command"]);
    }
    claim(&own).unwrap();
    claim(&folder.path().join("new.txt")).unwrap();
}

#[test]
fn only_regular_files_of_the_kind_are_replaced() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let _socket = UnixListener::bind(at("socket")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    symlink("/dev/null", at("null")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let letter = write(&at("letter.txt"), "Dear reader");
    for replace in [Replace::SameKind, Replace::AnyFile] {
        let claim = |path: &Path| Outputs::new(replace).claim("--html", path, NOTE);
        for (path, says) in [
            (at("socket"), "is a socket"),
            (at("fifo"), "is a FIFO"),
            (at("null"), "is a device"),
            ("/dev/null".into(), "is a device"),
            (at(""), "is a folder"),
            (at("loop"), "form a loop"),
            ("".into(), "the path is empty"),
            (at("missing/a.txt"), "its folder does not exist: mkdir -p "),
            (at("missing/"), "does not exist"),
            (at("letter.txt/a.txt"), "letter.txt is not a folder"),
            ("..".into(), "is a folder"),
        ] {
            refused(claim(&path), &["--html", says]);
        }
    }
    refused(Outputs::new(Replace::SameKind).claim("-o", &letter, NOTE), &["is not a note", "--force"]);
    Outputs::new(Replace::AnyFile).claim("-o", &letter, NOTE).unwrap().write(b"note: forced").unwrap();
    assert_eq!(fs::read(&letter).unwrap(), b"note: forced");
    fs::set_permissions(&letter, fs::Permissions::from_mode(0o444)).unwrap();
    refused(Outputs::new(Replace::SameKind).claim("-o", &letter, NOTE), &["is read-only (mode 444)"]);
    put(&write(&at("empty.txt"), ""), "note: an empty file holds nothing").unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn two_options_do_not_share_a_file() {
    let folder = folder();
    let mut outputs = Outputs::new(Replace::SameKind);
    outputs.claim("--svg", &folder.path().join("a"), NOTE).unwrap();
    refused(outputs.claim("--html", &folder.path().join("./a"), NOTE), &["--html", "is the file of --svg too"]);
    outputs.claim("-o", Path::new("-"), NOTE).unwrap();
    refused(outputs.claim("--report", Path::new("-"), NOTE), &["is the file of -o too"]);
}

fn is_numbered(name: &str) -> bool {
    name.starts_with("01.")
}

#[test]
fn a_filled_folder_holds_neither_inputs_nor_other_outputs() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("d")).unwrap();
    let input = write(&at("d/01.txt"), "note: input");
    let fill = |outputs: &mut Outputs, path: &Path| outputs.fills("--dump-dir", path, NOTE, is_numbered);
    for replace in [Replace::SameKind, Replace::AnyFile] {
        let says = |outputs: &mut Outputs, path: &str| fill(outputs, &at(path)).unwrap_err().to_string();
        let mut outputs = Outputs::new(replace);
        outputs.reads(&input);
        let input = says(&mut outputs, "d");
        assert!(
            input.starts_with("--dump-dir ") && input.contains("/d: gets a file 01.txt, which is an input"),
            "{input}"
        );
        // The file of another option, whichever comes first.
        let mut outputs = Outputs::new(replace);
        outputs.claim("-o", &at("d/01.txt"), NOTE).unwrap();
        assert!(says(&mut outputs, "d/").contains("gets a file 01.txt, which is the file of -o too"));
        outputs.claim("--svg", &at("new"), NOTE).unwrap();
        for path in ["new", "new/", "new/sub", "d/../new"] {
            assert!(says(&mut outputs, path).contains("is the file of --svg too"), "{path}");
        }
        assert!(!at("new").exists());
        let mut outputs = Outputs::new(replace);
        fill(&mut outputs, &at("d")).unwrap();
        refused(outputs.claim("-o", &at("d/./01.other"), NOTE), &["is the file of --dump-dir too"]);
        outputs.claim("-o", &at("d/x.plan"), NOTE).unwrap();
    }
    write(&at("d/01.mine"), "Dear reader");
    let error = fill(&mut Outputs::new(Replace::SameKind), &at("d")).unwrap_err().to_string();
    assert!(
        error.contains("gets a file 01.mine, which exists and is not a note") && error.contains("--force"),
        "{error}"
    );
    fill(&mut Outputs::new(Replace::AnyFile), &at("d")).unwrap();
}

#[test]
fn a_target_that_becomes_special_during_the_work_is_kept() {
    let folder = folder();
    let path = folder.path().join("a.txt");
    let mut file = Output::at(&path, NOTE, Replace::SameKind).unwrap().create().unwrap();
    file.write_all(b"note: x").unwrap();
    fs::create_dir(&path).unwrap();
    assert!(file.finish().unwrap_err().to_string().contains("is a folder"));
    assert_eq!(names(folder.path()), ["a.txt"]);
}

#[test]
fn a_mount_point_is_written_in_place() {
    let folder = folder();
    let old = write(&folder.path().join("old"), "note: a longer text than the new one");
    let inode = fs::metadata(&old).unwrap().ino();
    let mut new = fs::File::options().read(true).open(write(&folder.path().join("new"), "note: short")).unwrap();
    file::copy_into(&mut new, &old).unwrap();
    assert_eq!((fs::read(&old).unwrap(), fs::metadata(&old).unwrap().ino()), (b"note: short".to_vec(), inode));
}

#[test]
fn a_temporary_file_with_a_name_is_removed_when_it_is_given_up() {
    let folder = folder();
    let (_file, entry) = file::named(folder.path()).unwrap();
    assert!(entry.path().exists() && names(folder.path())[0].starts_with(".jamba-"));
    drop(entry);
    assert_eq!(names(folder.path()), [""; 0]);
}
