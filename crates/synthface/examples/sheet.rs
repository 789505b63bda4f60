//! Draws a contact sheet: one row per syndrome (or of unaffected people), columns are
//! two photographs of each patient.
//!
//! `cargo run -p synthface --release --example sheet -- OUT.png [unaffected|varied|catalogue|generated] [FIRST] [DIFFICULTY]`

use synthface::{Photograph, Population, catalogue, generated};

const SIZE: u32 = 256;
const ROWS: usize = 4;
const COLUMNS: usize = 6;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let out = args.next().unwrap_or_else(|| "sheet.png".to_owned());
    let kind = args.next().unwrap_or_else(|| "catalogue".to_owned());
    let first: usize = args.next().map_or(Ok(0), |a| a.parse())?;
    let difficulty: f32 = args.next().map_or(Ok(1.0), |a| a.parse())?;
    let gestalts = if kind == "generated" { generated(first + ROWS, 1) } else { catalogue().to_vec() };
    let population = Population::new(gestalts, difficulty, 1)?;
    let stride = COLUMNS * SIZE as usize * 3;
    let mut sheet = vec![0u8; stride * ROWS * SIZE as usize];
    for row in 0..ROWS {
        let syndrome = (first + row) % population.gestalts().len();
        for column in 0..COLUMNS {
            let (person, image) = ((column / 2) as u64, (column % 2) as u64);
            let number = (first + row * COLUMNS / 2) as u64 + person;
            let subject = match kind.as_str() {
                "unaffected" => Population::unaffected(1, number),
                "varied" => Population::varied(1, number),
                _ => population.subject(syndrome, person),
            };
            paste(&mut sheet, stride, row, column, &subject.photograph(image, SIZE));
        }
        if kind == "catalogue" || kind == "generated" {
            println!("row {row}: {}", population.gestalts()[syndrome].name);
        }
    }
    image::save_buffer(&out, &sheet, COLUMNS as u32 * SIZE, ROWS as u32 * SIZE, image::ColorType::Rgb8)?;
    Ok(())
}

fn paste(sheet: &mut [u8], stride: usize, row: usize, column: usize, photo: &Photograph) {
    let width = photo.width as usize * 3;
    for (y, line) in photo.rgb.chunks(width).enumerate() {
        let at = (row * photo.height as usize + y) * stride + column * width;
        sheet[at..at + width].copy_from_slice(line);
    }
}
