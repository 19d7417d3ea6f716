"""Text for the tiny pair: the gold sentences, pieces of them, and generated edge cases.

Sampler.sample() draws one row. About a third are real sentences, the rest is shuffled pieces of
sentences of one language (so that the models learn words rather than sentences) and generated edge
cases for the rules of the task: other scripts, other languages in Latin letters, names, numbers,
code, mixtures, romanised and very short texts.
"""

import json
import random
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# The order in which multilingual_gold.jsonl lists the translations of a sentence; bg counts as ru,
# sw and th as ot.
PARALLEL = "ar bg de el en es fr hi ru sw th tr ur vi zh".split()
NAMES = dict(
    zip(
        PARALLEL,
        "Arabic Bulgarian German Greek English Spanish French Hindi Russian Swahili Thai Turkish Urdu Vietnamese "
        "Chinese".split(),
        strict=True,
    )
)
LABEL_OF = {c: c for c in PARALLEL} | {"bg": "ru", "sw": "ot", "th": "ot"}
SCRIPT_OF = {
    "ar": "Arabic",
    "el": "Greek",
    "hi": "Devanagari",
    "ru": "Cyrillic",
    "ur": "Arabic",
    "zh": "Han",
}
LATIN = [c for c in PARALLEL if c in "de en es fr sw tr vi".split()]

# First and last letter of scripts that belong to no label.
SCRIPTS = {
    "Hebrew": "את",
    "Hangul": "가힣",
    "Hiragana": "あん",
    "Katakana": "アン",
    "Bengali": "কহ",
    "Gurmukhi": "ਕਹ",
    "Tamil": "கஹ",
    "Telugu": "కహ",
    "Khmer": "កអ",
    "Ethiopic": "ሀፖ",
    "Armenian": "աֆ",
    "Georgian": "აჰ",
    "Thai": "กฮ",
}
# Frequent words of languages in Latin letters that have no label.
OTHER_LATIN = {
    "Italian": "il lo la gli che di non è un una per con sono della nel più anche come questo ho mi ti ci ma se quando "
    "perché dove cosa fare molto bene oggi domani sempre ancora casa tempo anni stato alla dalla sulla nostro",
    "Portuguese": "o a os as que de não é um uma para com são da do no na mais também como este eu você ele ela mas se "
    "quando porque onde fazer muito bem hoje amanhã sempre ainda casa tempo anos foi à pelo nosso já então só",
    "Catalan": "el la els les que de no és un una per amb són del al més també com aquest jo tu ell però si quan "
    "on fer molt bé avui demà sempre encara casa temps anys ha estat nostre això hi vaig",
    "Romanian": "și că de nu este un o pentru cu sunt din la mai cum acest eu tu el dar dacă când unde ce face mult "
    "azi mâine încă casă timp ani fost noastră aceasta să am ai fi prea foarte care",
    "Dutch": "de het een en van ik je niet is dat op te in voor met zijn maar ook als wat waar wie hoe naar nog wel "
    "vandaag morgen altijd huis tijd jaar geen heeft hebben wordt deze ons mijn zij er dan om bij uit",
    "Afrikaans": "die 'n en van ek jy nie is dat op te in vir met sy maar ook as wat waar wie hoe na nog vandag môre "
    "altyd huis tyd jaar geen het word hierdie ons my hulle daar dan om by uit baie",
    "Swedish": "och att det en ett som är på inte jag du han hon med för av till den har men om vi kan så när vad hur "
    "var idag imorgon alltid hus tid år ingen från eller mycket också där här blir måste",
    "Danish": "og at det en et som er på ikke jeg du han hun med for af til den har men om vi kan så når hvad "
    "hvor i dag morgen altid hus tid år ingen fra eller meget også der her bliver skal være",
    "Norwegian": "og at det en et som er på ikke jeg du han hun med for av til den har men om vi kan så når hva "
    "hvor i dag morgen alltid hus tid år ingen fra eller mye også der her blir skal være",
    "Finnish": "ja on ei se että en hän minä sinä mutta kun niin jos mitä missä miten hyvin tänään huomenna aina talo "
    "aika vuotta ole oli ovat tämä myös vielä kanssa paljon koska sitten nyt meidän",
    "Estonian": "ja on ei see et ma sa ta aga kui nii mis kus kuidas hästi täna homme alati maja aeg aastat ole oli "
    "need ka veel koos palju sest siis nüüd meie väga",
    "Hungarian": "a az és hogy nem is egy van volt de ha mert mit hol hogyan jól ma holnap mindig ház idő év már még "
    "csak nagyon ez azt nekem veled lesz kell lehet után között vagy",
    "Polish": "i w na z że nie się jest to do jak ale czy co gdzie kiedy bardzo dobrze dziś jutro zawsze dom czas lat "
    "był była już jeszcze tylko dla przez od po za mnie jego są może będzie",
    "Czech": "a v na s že ne se je to do jak ale co kde kdy velmi dobře dnes zítra vždy dům čas let byl byla už ještě "
    "jen pro přes od po za mě jeho jsou může bude které",
    "Croatian": "i u na s da ne se je to do kako ali što gdje kada vrlo dobro danas sutra uvijek kuća vrijeme godina "
    "bio bila već još samo za kroz od po me njegov su može bit će",
    "Lithuanian": "ir į su kad ne yra tai iki kaip bet ar kas kur kada labai gerai šiandien rytoj visada namas laikas "
    "metų buvo jau dar tik per nuo po už mane jo gali bus",
    "Latvian": "un uz ar ka nav ir tas līdz kā bet vai kas kur kad ļoti labi šodien rīt vienmēr māja laiks gadi bija "
    "jau vēl tikai caur no pēc par mani viņa var būs",
    "Icelandic": "og að það í á sem er ekki ég þú hann hún með fyrir af til en ef við getur svo þegar hvað hvernig "
    "dag morgun alltaf hús tími ár enginn frá eða mjög líka þar hér verður",
    "Albanian": "dhe të në me që nuk është një për nga si por nëse kur ku çfarë shumë mirë sot nesër gjithmonë shtëpi "
    "kohë vjet ka kam jam do të pas prej",
    "Indonesian": "yang dan di ke dari tidak ini itu untuk dengan adalah saya kamu dia akan bisa ada juga sudah belum "
    "kalau karena apa mana bagaimana baik hari besok selalu rumah waktu tahun kami mereka lebih",
    "Tagalog": "ang ng sa na at ay hindi ito ako ikaw siya mga may kung kapag dahil ano saan paano mabuti ngayon bukas "
    "lagi bahay oras taon namin nila din rin pa lang po naman",
    "Welsh": "y yr a i o yn ar mae ddim yw bod gan am fel ond os pan ble beth sut da iawn heddiw yfory bob tŷ amser "
    "blwyddyn wedi ni nhw hefyd eto gyda",
    "Basque": "eta da ez bat hau hori ni zu bera baina noiz non zer nola oso ondo gaur bihar beti etxe denbora urte "
    "dut duzu dago ere oraindik gure egin behar",
    "Azerbaijani": "və bir bu üçün deyil çox mən sən o amma əgər nə harada necə yaxşı bu gün sabah həmişə ev vaxt il "
    "var idi olacaq bizim onlar daha ilə sonra qədər gəlir",
}
GREETINGS = {
    "de": [
        "guten Abend",
        "Guten Tag",
        "danke schön",
        "auf Wiedersehen",
        "vielen Dank",
        "Entschuldigung",
    ],
    "en": ["thank you", "good morning", "Good night!", "thanks", "how are you", "Hello there"],
    "es": ["hola", "gracias", "buenos días", "¡Hasta luego!", "por favor", "muchas gracias"],
    "fr": ["bonjour", "Bonsoir !", "merci", "merci beaucoup", "au revoir", "bonne nuit"],
    "tr": ["merhaba", "günaydın", "iyi geceler", "teşekkürler", "hoşça kal", "İyi akşamlar"],
    "vi": ["xin chào", "cảm ơn", "tạm biệt", "chúc ngủ ngon", "xin lỗi", "Cảm ơn bạn"],
}
SHARED_WORDS = (
    "ok no si hotel taxi menu radio bar pizza cola internet email video film test start stop total error login "
    "server reset club park station museum bank café festival star yes hmm haha wow la da oh ja nein oui non"
).split()
PROPER_NAMES = (
    "Siemens Renault Toyota Samsung Netflix Google Adidas Nestlé Ikea Volvo Fiat Peugeot Bosch Nokia Sony Philips "
    "Berlin Paris Madrid London Istanbul Hanoi Lyon Wien München Sevilla Bordeaux Köln Ankara Đà Nẵng Toulouse Quito "
    "Anna Maria José Müller García Dupont Yılmaz Nguyễn Smith Schneider Martin Fernández Öztürk Trần Pierre Hans"
).split()
PINYIN_INITIALS = "b p m f d t n l g k h j q x zh ch sh r z c s y w".split()
PINYIN_FINALS = "a o e i u ai ei ao ou an en ang eng ong ia ie iu ian in iang ing uo ui un".split()
CYRILLIC_LATIN = dict(
    zip("абвгдезийклмнопрстуфхъыь", "abvgdeziyklmnoprstufh'y'", strict=True)
) | dict(ж="zh", ц="ts", ч="ch", ш="sh", щ="shch", э="e", ю="yu", я="ya", ё="yo")
GREEK_LATIN = dict(
    zip("αάβγδεέζηήιίκλμνοόπρσςτυύφω", "aavgdeeziiiiklmnooprsstyyfo", strict=True)
) | dict(θ="th", ξ="x", χ="ch", ψ="ps", ώ="o")
ARABIC_LATIN = dict(
    zip("ابتجحخدذرزسشصضطظعغفقكلمنهويةىأإئءآؤ", "abtg7kdzrzsssdtz3gfqklmnhwyaaaie2aw", strict=True)
) | dict(zip("پچڈڑگںہھےکیٹ", "pcdrgnhhekit", strict=True))
DEVANAGARI_LATIN = {
    "ा": "a",
    "ि": "i",
    "ी": "ee",
    "ु": "u",
    "ू": "oo",
    "े": "e",
    "ै": "ai",
    "ो": "o",
    "ौ": "au",
}
DEVANAGARI_CONSONANTS = dict(
    zip(
        "कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहअआइईउऊएऐओऔ",
        "k kh g gh ch chh j jh t th d dh n t th d dh n p ph b bh m y r l v sh sh s h a aa i ee u oo e ai o au".split(),
        strict=True,
    )
)
CODE = [
    "for (let {a} = 0; {a} < {b}.length; {a}++) {{ {b}[{a}] += {n}; }}",
    "def {a}({b}, {c}={n}): return {b} + {c}",
    "SELECT {a}, {b} FROM {c} WHERE {a} > {n} ORDER BY {b};",
    "git commit -m {a} && git push origin {b}",
    "docker run -p {n}:80 {a}/{b}:latest",
    "const {a} = await {b}.get('{c}', {n});",
    "public static int {a}(int {b}) {{ return {b} * {n}; }}",
    "if {a} >= {n} {{ return {b}; }} else {{ {c}++; }}",
    "#include <{a}.h> int {b}() {{ return {n}; }}",
    '{{"{a}": {n}, "{b}": true, "{c}": null}}',
    ".{a} > {b} {{ margin: {n}px; color: #fff; }}",
    "cat {a}.csv | grep {b} | sort -n | head -{n}",
    "^(?:[a-z]+-{n})*$ {a}",
    "<div class={a}><span id={b}>{n}</span></div>",
]
COMMENTS = [
    "{code} // {text}",
    "{code} # {text}",
    "/* {text} */ {code}",
    "{code} -- {text}",
    "<!-- {text} --> {code}",
]
MESSAGES = [
    'print("{text}")',
    'console.log("{text}");',
    'raise ValueError("{text}")',
    'alert("{text}")',
    'echo "{text}"',
]
IDENTIFIERS = "user item count data index cart total price name list key value buf node path cfg tmp orders row".split()
EMOJI = list("😀😂😭🎂🎉🤔😤🚆❤👀📦🥵")


@dataclass
class Row:
    """One text with its label, the language's name as the teacher calls it and the script that decides."""

    text: str
    label: str
    language: str
    script: str
    code: str | None = None  # which of PARALLEL, None for an edge case


def main_script(text: str) -> str:
    """Name of the script with the most letters, 'none' without letters."""
    names = Counter(unicodedata.name(c, "none").split()[0].title() for c in text if c.isalpha())
    name = names.most_common(1)[0][0] if names else "none"
    return "Han" if name == "Cjk" else name


def make_row(text: str, label: str, code: str | None = None, script: str | None = None) -> Row:
    """A Row; language and script follow from label and code where they are not given."""
    script = script or SCRIPT_OF.get(label) or ("Latin" if label != "ot" else main_script(text))
    language = NAMES[code] if code else NAMES.get(label, "other")
    return Row(text, label, language, script, code)


def read_rows(path: Path) -> list[Row]:
    """The gold rows; those that are out of the translations' fixed order are the edge cases."""
    rows, position = [], 0
    for line in path.read_text(encoding="utf-8").splitlines():
        user, assistant = json.loads(line)["messages"]
        text, label = user["content"], assistant["content"]
        code = PARALLEL[position % len(PARALLEL)]
        fits = label == LABEL_OF[code] and (code == "th") == (main_script(text) == "Thai")
        position += fits
        rows.append(make_row(text, label, code if fits else None))
    return rows


class Sampler:
    """Draws training rows from gold rows and generators; every draw comes from `rng`."""

    def __init__(self, rows: list[Row], rng: random.Random):
        self.rows, self.rng = rows, rng
        self.edge = [r for r in rows if r.code is None]
        self.by_code = {c: [r.text for r in rows if r.code == c] for c in PARALLEL}
        self.generators = [
            self.other_script,
            self.other_latin,
            self.no_letters,
            self.names,
            self.program,
            self.commented,
            self.mixed,
            self.borrowed,
            self.decorated,
            self.romanised,
            self.short,
            self.greeting,
        ]

    def sample(self) -> Row:
        """One row: 37 % real translations, 37 % pieces of them, 10 % real and 16 % generated edge cases."""
        kind = self.rng.random()
        if kind < 0.10:
            return self.rng.choice(self.edge)
        if kind < 0.26:
            return self.rng.choice(self.generators)()
        # sw stands for all languages without a label, so it is drawn more often than the others
        code = self.rng.choice([*PARALLEL, "sw"])
        text = self.text_of(code) if kind < 0.63 else self.pieces(code, self.rng.randint(2, 6))
        return make_row(text, LABEL_OF[code], code)

    def text_of(self, code: str) -> str:
        """A sentence of this language, in three of ten cases cropped to a run of its words."""
        text = self.rng.choice(self.by_code[code])
        if self.rng.random() < 0.3:
            parts = split(text, code)
            length = self.rng.randint(min(4, len(parts)), len(parts))
            start = self.rng.randint(0, len(parts) - length)
            text = join(parts[start : start + length], code)
        return text

    def pieces(self, code: str, count: int) -> str:
        """Runs of one to three words out of `count` sentences of this language."""
        parts = []
        for _ in range(count):
            words = split(self.rng.choice(self.by_code[code]), code)
            start = self.rng.randrange(len(words))
            parts += words[start : start + self.rng.randint(1, 3)]
        if len(parts) < 4:
            return self.pieces(code, count + 1)
        return join(parts, code)

    def other_script(self) -> Row:
        script, (first, last) = self.rng.choice(list(SCRIPTS.items()))
        letters = [chr(c) for c in range(ord(first), ord(last) + 1) if chr(c).isalpha()]
        letters = self.rng.sample(letters, min(25, len(letters)))
        words = [
            "".join(self.rng.choices(letters, k=self.rng.randint(1, 7)))
            for _ in range(self.rng.randint(1, 9))
        ]
        return make_row(" ".join(words) + self.rng.choice([".", "?", "!", ""]), "ot", script=script)

    def other_latin(self) -> Row:
        words = self.rng.choice(list(OTHER_LATIN.values())).split()
        chosen = self.rng.choices(words, k=self.rng.randint(3, 14))
        # invented content words between the function words, from the language's own syllables
        syllables = [w[i : i + 3] for w in words for i in range(0, len(w) - 2, 2)]
        for _ in range(len(chosen) // 2):
            word = "".join(self.rng.choices(syllables, k=self.rng.randint(2, 3)))
            chosen.insert(self.rng.randrange(len(chosen)), word)
        return make_row(
            " ".join(chosen).capitalize() + self.rng.choice([".", "?", "!", ""]),
            "ot",
            script="Latin",
        )

    def no_letters(self) -> Row:
        return make_row(
            " ".join(self.noise() for _ in range(self.rng.randint(1, 3))), "ot", script="none"
        )

    def noise(self) -> str:
        rng, number = self.rng, self.rng.randint(0, 10 ** self.rng.randint(1, 5))
        word = rng.choice(IDENTIFIERS)
        return rng.choice(
            [
                f"{number}",
                f"{rng.randint(0, 23)}:{rng.randint(10, 59)}",
                f"{number}.{rng.randint(0, 99)} + {rng.randint(0, 99)} = {rng.randint(0, 9999)}",
                f"https://example.com/{word}/{number}",
                f"{word}@example.org",
                f"#{word}{rng.choice(IDENTIFIERS)}",
                f"@{word}_{number}",
                rng.choice(EMOJI) * rng.randint(1, 3),
                f"+{rng.randint(1, 99)} {rng.randint(100, 999)} {rng.randint(10000, 9999999)}",
                f"{rng.randint(1, 255)}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 255)}",
                f"/usr/{word}/{rng.choice(IDENTIFIERS)}.txt",
                rng.choice(["?!?", "...", "—", "→", "%", "$$$"]),
            ]
        )

    def names(self) -> Row:
        chosen = self.rng.sample(PROPER_NAMES, self.rng.randint(1, 6))
        return make_row(self.rng.choice([", ", " ", " / ", " – "]).join(chosen), "ot")

    def code_line(self) -> str:
        a, b, c = self.rng.sample(IDENTIFIERS, 3)
        return self.rng.choice(CODE).format(a=a, b=b, c=c, n=self.rng.randint(0, 500))

    def program(self) -> Row:
        return make_row(self.code_line(), "ot", script="none")

    def commented(self) -> Row:
        code = self.rng.choice([c for c in PARALLEL if LABEL_OF[c] != "ot"])
        form = self.rng.choice([*COMMENTS, *MESSAGES])
        text = form.format(code=self.code_line(), text=self.text_of(code).rstrip("."))
        return make_row(text, LABEL_OF[code], code)

    def mixed(self) -> Row:
        """Two languages in Latin letters, one half each or in turns."""
        one, two = self.rng.sample([c for c in LATIN if c != "sw"], 2)
        turns = self.rng.randint(1, 2)
        parts = []
        for _ in range(turns):
            for code in (one, two):
                words = split(self.rng.choice(self.by_code[code]), code)
                length = min(
                    len(words), self.rng.randint(3, 5) if turns > 1 else self.rng.randint(4, 9)
                )
                parts.append(" ".join(words[:length]).rstrip(".,"))
        return make_row(self.rng.choice([" / ", ", ", " - ", " "]).join(parts), "ot")

    def borrowed(self) -> Row:
        """A sentence that borrows one or two foreign words keeps its language."""
        code = self.rng.choice([c for c in PARALLEL if LABEL_OF[c] != "ot"])
        words = self.rng.choice(self.by_code[code]).split()
        for _ in range(self.rng.randint(1, 2)):
            word = self.rng.choice(
                [*SHARED_WORDS, *PROPER_NAMES, "bonjour", "meeting", "deadline", "laptop", "phone"]
            )
            words.insert(self.rng.randint(0, len(words)), word)
        return make_row(" ".join(words), LABEL_OF[code], code)

    def decorated(self) -> Row:
        """Addresses, numbers, hashtags and emoji around a sentence change nothing."""
        code = self.rng.choice(PARALLEL)
        words = self.text_of(code).split()
        for _ in range(self.rng.randint(1, 3)):
            words.insert(
                self.rng.choice([0, len(words), self.rng.randint(0, len(words))]), self.noise()
            )
        return make_row(" ".join(words), LABEL_OF[code], code)

    def romanised(self) -> Row:
        """Russian, Greek, Arabic, Urdu, Hindi or Chinese in Latin letters."""
        code = self.rng.choice(["ru", "el", "ar", "ur", "hi", "zh"])
        if code == "zh":
            syllables = [
                self.rng.choice(PINYIN_INITIALS) + self.rng.choice(PINYIN_FINALS) for _ in range(20)
            ]
            words = [
                "".join(syllables[i : i + self.rng.randint(1, 2)])
                for i in range(self.rng.randint(4, 10))
            ]
            text = " ".join(words)
        else:
            text = self.text_of(code).lower()
            text = romanise_hindi(text) if code == "hi" else romanise(text, self.rng)
        return make_row(text, "ot", script="Latin")

    def short(self) -> Row:
        if self.rng.random() < 0.4:
            return make_row(
                " ".join(self.rng.sample(SHARED_WORDS, self.rng.randint(1, 2))),
                "ot",
                script="Latin",
            )
        code = self.rng.choice([c for c in PARALLEL if c in SCRIPT_OF and c != "zh"])
        words = split(self.rng.choice(self.by_code[code]), code)
        start = self.rng.randrange(len(words))
        return make_row(
            " ".join(words[start : start + self.rng.randint(1, 2)]), LABEL_OF[code], code
        )

    def greeting(self) -> Row:
        code = self.rng.choice(list(GREETINGS))
        text = self.rng.choice(GREETINGS[code])
        text = self.rng.choice([text, text.lower(), text.capitalize(), text + "!", text + "."])
        return make_row(text, code, code)


def split(text: str, code: str) -> list[str]:
    """Words; runs of three characters where the language writes no spaces."""
    return re.findall(r".{1,3}", text) if code in ("zh", "th") else text.split()


def join(parts: list[str], code: str) -> str:
    return ("" if code in ("zh", "th") else " ").join(parts)


def romanise(text: str, rng: random.Random) -> str:
    """Letter by letter; Arabic writes no short vowels, so some are put in."""
    out = []
    for c in text:
        latin = CYRILLIC_LATIN.get(c) or GREEK_LATIN.get(c) or ARABIC_LATIN.get(c) or c
        out.append(latin)
        if c in ARABIC_LATIN and latin not in "aeiou" and rng.random() < 0.4:
            out.append(rng.choice("aaaeiu"))
    return "".join(c for c in "".join(out) if c.isascii())


def romanise_hindi(text: str) -> str:
    """Consonants carry an a unless a vowel sign or the end of the word follows."""
    out = []
    for c, following in zip(text, text[1:] + " ", strict=True):
        if c in DEVANAGARI_CONSONANTS:
            out.append(DEVANAGARI_CONSONANTS[c])
            if c < "अ" or (c >= "क" and (following in DEVANAGARI_CONSONANTS)):
                out.append("a")
        elif c in DEVANAGARI_LATIN:
            out.append(DEVANAGARI_LATIN[c])
        elif c in "ंँ":
            out.append("n")
        elif c.isascii():
            out.append(c)
    return "".join(out)
