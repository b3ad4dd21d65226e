//! Checks assembled code before the driver sees it. The driver is given an address and no length: it takes the lengths from the image's own
//! headers, so an image whose headers point behind its end would make it read other memory.

use object::LittleEndian;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

/// Checks that an image is an ELF file of NVIDIA's code whose headers, sections and segments lie inside of it.
///
/// # Errors
/// What is wrong.
pub(super) fn check(image: &[u8]) -> Result<(), String> {
    let invalid = |error: object::Error| format!("its cubin is not an ELF file: {error}");
    let header = FileHeader64::<LittleEndian>::parse(image).map_err(invalid)?;
    let endian = header.endian().map_err(invalid)?;
    let machine = header.e_machine(endian);
    if machine != elf::EM_CUDA {
        return Err(format!("its cubin is for machine {}, expected {}", machine.0, elf::EM_CUDA.0));
    }
    // Both fail for tables that do not lie in the image.
    let sections = header.section_headers(endian, image).map_err(invalid)?;
    let segments = header.program_headers(endian, image).map_err(invalid)?;
    if let Some(at) = sections.iter().position(|section| section.data(endian, image).is_err()) {
        return Err(format!("section {at} of its cubin is not in the {} bytes of it", image.len()));
    }
    if let Some(at) = segments.iter().position(|segment| segment.data(endian, image).is_err()) {
        return Err(format!("segment {at} of its cubin is not in the {} bytes of it", image.len()));
    }
    let names = header.section_strings(endian, image, sections).map_err(invalid)?;
    match sections.iter().position(|section| section.name(endian, names).is_err()) {
        Some(at) => Err(format!("the name of section {at} of its cubin is not in its table of names")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with a section and a segment of 16 bytes each, and names of sections.
    fn image() -> Vec<u8> {
        let mut image = vec![0; 512];
        image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(18, &190_u16.to_le_bytes()); // machine
        put(32, &64_u64.to_le_bytes()); // program headers
        put(40, &128_u64.to_le_bytes()); // section headers
        put(52, &64_u16.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &1_u16.to_le_bytes());
        put(58, &64_u16.to_le_bytes());
        put(60, &3_u16.to_le_bytes());
        put(62, &2_u16.to_le_bytes()); // of the names
        put(64, &1_u32.to_le_bytes()); // PT_LOAD
        put(72, &400_u64.to_le_bytes()); // offset
        put(96, &16_u64.to_le_bytes()); // bytes in the file
        for (section, kind, offset) in [(1, 1_u32, 400_u64), (2, 3, 416)] {
            put(128 + section * 64 + 4, &kind.to_le_bytes());
            put(128 + section * 64 + 24, &offset.to_le_bytes());
            put(128 + section * 64 + 32, &16_u64.to_le_bytes());
        }
        image.truncate(432);
        image
    }

    #[test]
    fn an_image_whose_parts_lie_in_it_is_accepted() {
        check(&image()).unwrap();
    }

    #[test]
    fn an_image_that_points_behind_its_end_is_refused() {
        for (at, value, says) in [
            (0, 0, "is not an ELF file"),
            (18, 62, "is for machine 62, expected 190"),
            (32, 1 << 40, "is not an ELF file"),
            (40, 500, "is not an ELF file"),
            (60, 100, "is not an ELF file"),
            (72, 417, "segment 0 of its cubin is not in the 432 bytes"),
            (96, 33, "segment 0 of its cubin is not in the 432 bytes"),
            (128 + 64 + 24, 417, "section 1 of its cubin is not in the 432 bytes"),
            (128 + 64 + 32, u64::MAX, "section 1 of its cubin is not in the 432 bytes"),
            (128 + 64, 17, "the name of section 1"),
        ] {
            let mut image = image();
            let wide = if matches!(at, 0 | 18 | 60) { 2 } else { 8 };
            // A name has 4 bytes, and the kind follows it.
            let wide = if at == 128 + 64 { 4 } else { wide };
            image[at..at + wide].copy_from_slice(&u64::to_le_bytes(value)[..wide]);
            let reason = check(&image).unwrap_err();
            assert!(reason.contains(says), "{at}: {reason}");
        }
        let image = image();
        for length in 0..image.len() {
            assert!(check(&image[..length]).is_err(), "{length} bytes");
        }
    }
}
