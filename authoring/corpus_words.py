"""Vocabulary of the pretraining corpus.

Words of the shop domain occur among everyday words; the phrases and the schema of the tickets do not.
"""

PEOPLE = """
    anna ben carla david ella frank gina hugo ivy jack kira leo mia noah olga peter quinn rosa sam tina uma
    victor wanda xavier yara zoe adam bella chris dora emil fay george hanna ivan julia karl lara max nora oscar
    petra rita simon thea ulla vera will
""".split()
ANIMALS = """
    dog cat horse bird fish cow sheep goat duck fox bear mouse rabbit frog bee pig hen owl wolf deer
""".split()
THINGS = """
    table door window box bag cup plate spoon knife book pen paper letter key clock coin hat shoe shirt coat
    glove ball stone rope boat wheel cart bell candle basket bucket ladder hammer nail brush pillow blanket bed
    bottle pot pan kite drum flute map stamp ring chain ticket card phone screen cable engine pump tool machine
    pipe wire lock fence bench
""".split()
PLACES = """
    house garden kitchen school market shop street river lake forest hill field farm bridge station park library
    office beach harbour tower church yard barn cellar hall village town city museum theatre airport hospital
    bakery
""".split()
ADJECTIVES = """
    big small old new red blue green white black yellow brown warm cold dry wet clean dirty heavy light soft
    hard long short tall round flat quiet loud happy sad tired angry kind brave clever lazy busy empty full open
    closed broken strange pretty cheap fast slow strong weak sweet bitter fresh sharp bright dark wrong right
    great terrible lovely nervous worried calm
""".split()
VERBS = [
    ("finds", "found"),
    ("takes", "took"),
    ("brings", "brought"),
    ("sees", "saw"),
    ("carries", "carried"),
    ("wants", "wanted"),
    ("buys", "bought"),
    ("sells", "sold"),
    ("cleans", "cleaned"),
    ("opens", "opened"),
    ("closes", "closed"),
    ("breaks", "broke"),
    ("fixes", "fixed"),
    ("paints", "painted"),
    ("loses", "lost"),
    ("hides", "hid"),
    ("keeps", "kept"),
    ("likes", "liked"),
    ("needs", "needed"),
    ("sends", "sent"),
    ("pays for", "paid for"),
    ("returns", "returned"),
    ("waits for", "waited for"),
    ("asks for", "asked for"),
    ("uses", "used"),
    ("makes", "made"),
    ("gives away", "gave away"),
    ("looks at", "looked at"),
    ("counts", "counted"),
    ("changes", "changed"),
    ("moves", "moved"),
    ("checks", "checked"),
]
TIMES = """
    today yesterday tonight tomorrow monday tuesday wednesday thursday friday saturday sunday now later soon
    early late morning evening noon midnight
""".split()
MONTHS = "january february march april may june july august september october november december".split()
COLOURS = "red blue green white black yellow brown orange purple grey pink silver".split()
CITIES = """
    Oslo Lima Cairo Paris Rome Delhi Tokyo Quito Dakar Seoul Perth Milan Turin Porto Kyoto Tunis Accra Hanoi
    Riga Bern Graz Lyon Ghent Turku
""".split()
NUMBERS = "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty".split()
FOODS = """
    bread soup rice cheese apple pear plum cake salad pasta honey egg tomato onion potato carrot tea coffee
""".split()
JOBS = """
    baker pilot nurse farmer teacher driver cook painter singer doctor sailor tailor miner clerk guard judge
""".split()
SPORTS = "football tennis rowing boxing skiing swimming chess cycling running judo golf hockey".split()
MUSIC = "piano guitar violin trumpet cello harp organ flute choir band opera song".split()
WEATHER = "rain snow wind fog storm sun hail thunder frost cloud heat ice".split()

GROUPS = {
    "animal": ANIMALS,
    "food": FOODS,
    "job": JOBS,
    "sport": SPORTS,
    "music": MUSIC,
    "weather": WEATHER,
    "colour": COLOURS,
    "month": MONTHS,
}

# Everyday words: in rows of words, and as keys and values of random schemas.
EVERYDAY = """
    able about account action add address adult after again agree air all allow almost alone already also always
    amount angle answer any area arm arrive article ask author average away baby back bad bank base battery
    because become before begin behind believe best better between beyond bill bit body boss both bottom boy
    branch bread break brother build building business button by bye call camera can cancel car care carpet case
    catch category cause centre chair chance change charge cheers child choose circle class climb close cloth
    code collect come company complain cook copy corner cost could country courier cover crack cross cup current
    cut damage danger date daughter deal dear debt decide deep delay deliver delivery desk detail device
    different dinner discount do double down draw dream dress drink drive driver drop during each ear earth easy
    eat edge either electric email end enough error even evening event ever every example exchange expect
    explain extra eye face fact fall family fault fear feel few fill final find fine finger finish fire first
    fix floor folder follow foot for foreign forget form forward found free friend front fun future gift girl
    glad glass goes gone good grand greeting ground group grow guess guest half hand hang hard hate have head
    headset hear heart help here high hire hit hold hole holiday home hope hour how however hurry idea if
    important inside invoice issue it item join joke jump just keep keyboard kid kind king know lady lamp
    language last late laugh law lead leave left leg less let level life lift light like line list listen little
    live log login long lost love low luck machine mail main man manager manual many mark market matter may
    maybe me mean meet member message middle might minute mirror miss missing mixer money month mood more most
    mother mouth much must name near need neighbour never news next nice night no noise none normal not note
    nothing now number obey off offer often old once only open option or order other out outside over own owner
    owns pack package page pair parcel part party pass past pay payment people perfect perhaps person phone
    piece place plan plane plant play please point police poor post power press price printer problem product
    profile promise proper pull purchase push put quality question queue quick quit quite radio rather reach
    read ready real reason receipt receive record refund reject remember repair replace replacement reply report
    request rest return ride ring rise road roof row rule safe sale same save say scratch screen seat second
    secret see seem send sent service set several shape share shelf shine ship shop should show shut side sign
    silly simple since sister sit sleep slip smart smile smoke so some someone something son sorry sort sound
    space speak speaker special spend stand star start state status stay step still stop store story stuck such
    sum support sure swap swim system table take talk taste tax tell tent text than thank thanks that their them
    then there they thing think time times to today together too top total touch trace track trade train travel
    trouble true trust try turn twice type ugly uncle under unit until up urgent urgency use user usual vacuum
    value very view visit voice voucher wait walk wall want wants warn was wash watch water way we week well
    went were what when where which while who whole whose why wide wife will win wish with woman wonderful wood
    wool word work world worse worst would write year yes yet you young your
""".split()

# Keys of random records and their values; "code" and "number" are generated.
SLOTS = {
    "name": PEOPLE,
    "owner": PEOPLE,
    "guest": PEOPLE,
    "driver": PEOPLE,
    "city": CITIES,
    "from": CITIES,
    "to": CITIES,
    "colour": COLOURS,
    "month": MONTHS,
    "day": TIMES,
    "animal": ANIMALS,
    "pet": ANIMALS,
    "dish": FOODS,
    "fruit": FOODS,
    "job": JOBS,
    "sport": SPORTS,
    "tool": THINGS,
    "object": THINGS,
    "place": PLACES,
    "room": PLACES,
    "size": ["small", "medium", "large"],
    "level": ["low", "normal", "high"],
    "state": ["open", "closed", "lost"],
    "weather": WEATHER,
    "code": [],
    "ref": [],
    "id": [],
    "number": [],
    "seats": NUMBERS,
    "price": [],
    "type": THINGS,
    "kind": ADJECTIVES,
    "feeling": ["happy", "angry", "worried", "neutral", "calm", "sad"],
    "count": NUMBERS,
}

# Small talk at desks other than a shop: {a}: what is requested, {b}: the place of the desk.
DESK_ASKS = [
    "can i book {a} for {t}",
    "my booking of {a} at the {b} is gone",
    "the {a} in the {b} is {j}",
    "i forgot my {a} in the {b}",
    "when does the {b} open {t}",
    "who has the {a} now",
    "i would like to borrow {a}",
    "please move my visit to {t}",
    "the lights in the {b} are {j}",
    "could you keep {a} for me until {t}",
    "i need help with {a} at the {b}",
    "is there a fee for {a}",
    "we want to join the {b} in {m}",
    "the {a} was not there when i came {t}",
    "somebody left {a} near the {b}",
    "do i have to pay for {a} at the {b}",
    "the password of the {b} screen is not right",
    "my {a} and the {b} card do not match",
    "i am late for the {b}",
    "your people at the {b} were {j} to me",
    "i cannot find the {b} on the map",
    "the machine at the {b} took my coins",
    "thank you for the {j} day at the {b}",
    "the email about {a} never reached me",
    "please explain the {a} to me",
]
DESK_REPLIES = [
    "of course, i have noted {a} for {t}.",
    "i am sorry to hear that. we will look for {a} {t}.",
    "the {b} opens at {n}.",
    "thank you for writing. your number is {c}.",
    "please come to the {b} {t}.",
    "yes, {a} is ready for you.",
    "no, there is no fee.",
    "i will ask {p} and call you back.",
    "may i have your name please?",
    "that is {j}. we check it {t}.",
    "your card {c} is fine again.",
    "{p} at the {b} can help you with {a}.",
    "you are welcome. have a {j} day.",
    "it was sent to you {t}.",
]
