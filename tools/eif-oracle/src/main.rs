// AWS's own enclave image builder and reader behind a small command: what tests and benchmarks compare with.
//
//   eif-oracle build KERNEL CMDLINE METADATA OUT ARCHITECTURE KEY|- CERTIFICATE|- RAMDISK...
//   eif-oracle read FILE
//
// Both print the registers as JSON; `read` fails when the CRC or the signature does not hold.
use aws_nitro_enclaves_image_format::defs::{EifIdentityInfo, EIF_HDR_ARCH_ARM64};
use aws_nitro_enclaves_image_format::utils::eif_reader::EifReader;
use aws_nitro_enclaves_image_format::utils::{EifBuilder, PcrSignatureChecker, SignKeyData};
use sha2::{Digest, Sha384};
use std::collections::BTreeMap;
use std::fs::{read_to_string, OpenOptions};
use std::path::Path;

fn build(arguments: &[String]) -> BTreeMap<String, String> {
    let [kernel, cmdline, metadata, out, architecture, key, certificate, ramdisks @ ..] = arguments else {
        panic!("build takes seven arguments and ramdisks");
    };
    let identity: EifIdentityInfo =
        serde_json::from_str(&read_to_string(metadata).expect("metadata")).expect("metadata");
    let flags = if architecture == "aarch64" { EIF_HDR_ARCH_ARM64 } else { 0 };
    let signer = (key != "-").then(|| SignKeyData::new(key, Path::new(certificate)).expect("key"));
    let mut builder =
        EifBuilder::new(Path::new(kernel), cmdline.clone(), signer, Sha384::new(), flags, identity);
    for ramdisk in ramdisks {
        builder.add_ramdisk(Path::new(ramdisk));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(out)
        .expect("output");
    builder.write_to(&mut file)
}

fn read(path: &str) -> BTreeMap<String, String> {
    let mut reader = EifReader::from_eif(path.to_string()).expect("image");
    assert!(reader.check_crc(), "the CRC does not hold");
    let mut signature = PcrSignatureChecker::from_eif(path).expect("signature");
    if !signature.is_empty() {
        signature.verify().expect("signature");
    }
    reader.get_measurements().expect("measurements")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut registers = match arguments.first().map(String::as_str) {
        Some("build") => build(&arguments[1..]),
        Some("read") => read(&arguments[1]),
        _ => panic!("build or read"),
    };
    registers.retain(|name, _| name.starts_with("PCR"));
    println!("{}", serde_json::to_string(&registers).expect("JSON"));
}
