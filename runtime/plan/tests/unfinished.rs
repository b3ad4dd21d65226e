//! Temporary folders that a signal interrupts. In a process of its own: removing them removes those of all threads.

use std::os::unix::fs::PermissionsExt;

use jamba_plan::output::unfinished;

#[test]
fn temporary_folders_are_removed_on_a_signal() {
    let folder = unfinished::Entry::folder().unwrap();
    let path = folder.path().to_owned();
    std::fs::write(path.join("a.o"), "object").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    unfinished::remove();
    assert!(!path.exists());
    let dropped = unfinished::Entry::folder().unwrap().path().to_owned();
    assert!(!dropped.exists());
}
