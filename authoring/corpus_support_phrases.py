"""Phrases of support conversations for pretraining, in other words than those of the tickets.

`(a|b)` is a choice. {p}: an item with its article, {o}: its code, {x}: another code, {q}: another item, {n}: a number,
{t}: a time. Labels are other words than the answers of the tickets, too.
"""

ITEMS = """
    kettle headphones headset earphones lamp light backpack rucksack chair keyboard blender mixer rug carpet bottle
    flask camera toaster jacket coat speaker printer tent watch wristwatch mattress bicycle bike vacuum hoover mirror
    sofa table shelf pan knife phone tablet laptop radio clock heater fan iron drill hammer ladder hose mower grill oven
    fridge freezer scale towel pillow blanket curtain vase candle basket bucket helmet skates racket ball kite guitar
    drum flute puzzle doll book pen bag wallet belt scarf glove hat boots sandals umbrella ring stroller cradle router
    screen charger cable plug
""".split()
QUALITIES = "new blue red green big small wireless electric digital folding steel wool laser smart city garden".split()
UNNAMED = ["the article", "it", "my purchase", "the goods", "that item", "what i bought"]

TOPICS = {
    "shipping": [
        "{p} (never|did not|didn't) (come|turn up|show up|reach me|get here|appear)(| so far| at all)",
        "(still|even now) no {p} (here|in my hands|in the post|at our place|for me)",
        "we (keep waiting|have waited (weeks|days|ages|a month)) for {p}",
        "when (will|does|might) {p} (get here|come|arrive|reach us|be dropped off)",
        "(the|your) (van|carrier|postman|courier|driver|truck) (went past with|lost|kept|forgot|took away) {p}",
        "the (box|package|parcel|shipment|delivery) (with|containing) {p} (went missing|got lost|vanished|is delayed)",
        "{p} (is|was) (overdue|delayed|behind schedule|held up|long due|too late|lost in the post)",
        "(the map|my tracking page|the post office) says {p} is (still in a depot|on a truck|in another town|not sent)",
        "{p} was (dropped|left|put) (at the wrong house|with a stranger|in the wrong street|at another address)",
        "you promised {p} (by|on|before) {t} and (nothing came|it is not here|i wait in vain)",
        "has {p} (been sent|left your store|been posted|been shipped)(| at all)",
        "(no van|no driver|no parcel|nobody) came with {p}",
        "{p} is (lost|stuck|held) (in transit|in the mail|at the border|in a depot|on the road)",
        "i have (not received|not got|yet to see) {p}",
    ],
    "defect": [
        "{p} (quit|failed|gave up|stopped|died|broke) (after|within) (a day|an hour|one week|the first try|two uses)",
        "{p} (is|was|came|arrived) (cracked|dented|torn|ripped|chipped|defective|ruined|out of order|leaking|dead)",
        "(the|one) (handle|lid|button|wheel|zip|strap|leg|hinge|side) of {p} (came off|is "
        "loose|broke|tore|snapped off)",
        "{p} (does nothing|will not start|won't switch on|shows no light|has no power)(| at all| since {t})",
        "{p} (smells burnt|smokes|rattles|buzzes|leaks|gets far too hot|sparks|squeaks)",
        "i opened the box and {p} was (in bits|shattered|ruined|broken|wrecked|damaged)",
        "there (is a crack|are cracks|is a tear|is a dent|are marks|are scratches) (in|on|across) {p}",
        "{p} fell (apart|to bits)(| in my hands| right away| {t})",
        "{p} has (a fault|a defect|a break|a bad motor|a broken part)",
        "i cannot use {p}, (it is broken|it is damaged|a piece is off|it has a defect)",
    ],
    "return": [
        "i (posted|mailed|shipped|brought|handed) {p} back {t} (and|but) (no money|nothing|not a "
        "cent) (reached me|was credited)",
        "(the|my) (repayment|reimbursement|credit) for {p} (never came|is not on my bank page|is "
        "too small|is not here)",
        "when will i be (repaid|reimbursed|credited|refunded) for {p}",
        "{p} does not (suit|fit) me (and goes back|so it goes back|so i give it back)",
        "i (would like|wish|need|hope|plan) to (give|bring|hand) {p} back",
        "(i|we) no longer (want|need) {p}",
        "we do not (want|like|need) {p} after all",
        "you (have|already have|hold) {p} again but (kept my money|i was not repaid|no refund was made)",
        "(how|where) can i send {p} back",
        "i am returning {p}, (it is too big|it is too small|it is not what i hoped|the color is wrong)",
    ],
    "payment": [
        "(you|the shop|your system) (charged|billed|took|debited) (too much|the wrong "
        "amount|double|two payments) for {p}",
        "(my bank|my statement|my credit card) shows (two|three|extra) payments for {p}",
        "the (receipt|invoice|statement|bill) for {p} (has a mistake|lists the wrong price|never came|is not right)",
        "(the coupon|my promo code|the gift card|the sale price) was (ignored|refused|not counted) (for|on|with) {p}",
        "{p} cost more (at the till|on the invoice|in the end) than (shown|advertised|agreed)",
        "i paid (too much|extra|twice|the wrong sum) for {p}",
        "why is {p} (so expensive|dearer) on my (bill|invoice|statement)",
        "could i have (a tax receipt|an invoice|a bill) for {p}",
        "the (tax|discount|price|fee|total) (of|for|with) {p} was (wrong|added twice|counted wrong)",
        "(a payment|the charge) for {p} (was made twice|is wrong|was refused|is listed as open)",
    ],
    "login": [
        "(your|the) (site|app|page|website) (says|claims|thinks) (my password|my name|my email) is "
        "(wrong|unknown|invalid)",
        "i (forgot|lost) my (password|pin|user name) and cannot (get in|enter|sign in|open {p})",
        "(signing in|logging on|sign in|login) (fails|does not work|gives an error|hangs)(| each "
        "time| again| since {t})",
        "the (code|link|mail|message) for (a new password|my profile|signing in) (does not come|has expired|is dead)",
        "(somebody|someone else) (uses|got into|took over) my (account|profile)",
        "(delete|close|remove|rename|update) my (account|profile|login|user name|email address)",
        "my (account|profile|user page) (is blocked|is frozen|was closed|is gone|lists the wrong "
        "name|has a wrong address)",
        "the app (logs me off|throws me out|refuses my password) when i look at {p}",
        "i cannot (enter|reach|open|get into) my (account|profile|user page)",
    ],
    "question": [
        "how (should|can|must) (i|one|we) (use|wash|fold|open|charge|store|mount|install|assemble|adjust|clean) {p}",
        "(what|which) (bulb|filter|charger|plug|oil|cable|voltage) (fits|suits|goes with|is right for) {p}",
        "is {p} (waterproof|safe for kids|made of steel|heavy|good for travel|fine in the rain)",
        "where (is|do i find) (the guide|the instructions|a booklet|the manual) for {p}",
        "(does|can) {p} (run on batteries|get wet|handle the cold|fit a small room|stay in the garden)",
        "what does the (light|switch|dial|sign) on {p} (do|tell me|stand for)",
        "how (big|heavy|long|tall|wide) is {p}",
        "(explain|show me|teach me) how {p} (works|opens|is built|goes together)",
    ],
    "compliment": [
        "{p} is (superb|fantastic|a joy|excellent|amazing|perfect|the best|brilliant|lovely)",
        "(we|my kids|my family) (adore|enjoy|are in love with|are delighted by|cannot live without) {p}",
        "{p} (does its job well|runs like a dream|beats all others|went beyond my hopes|made us smile)",
        "what a (great|fine|lovely|beautiful) (buy|thing|product) {p} is",
        "(full marks|top marks|ten points|a big hand) for {p}",
        "i am (delighted|happy|thrilled) with {p}",
    ],
    "stock": [
        "is {p} (in stock|sold out|for sale|back in store)(| again)",
        "when do you (sell|get|stock) {p} again",
        "do you (have|sell|offer) {p} in (blue|green|red|black|white)",
        "i (look|am looking) for {p} in your store",
    ],
}

ASKS = {
    "money": [
        "(repay|reimburse) me(| please| now)",
        "i (want|need|demand) (my|the) (money|cash|payment) returned",
        "(transfer|send|put) the (cash|money|payment) (back|to my bank)",
        "credit (my account|my bank|me)",
        "i would like to be (repaid|reimbursed|refunded)",
        "a full (refund|repayment) (is due|would be right)",
        "(money|cash) back please",
    ],
    "exchange": [
        "(bring|mail|post|get) me (another|an intact|a working) (one|unit)",
        "i (need|want|ask for) (a substitute|another one|a new one|a swap|an exchange)",
        "(trade|change|replace) it (for|with) (a good|a new|another) one",
        "could you (replace|swap|substitute) it",
        "a (replacement|new piece|fresh unit) would be good",
    ],
    "news": [
        "(what is happening|what is going on|how is the progress)",
        "(keep|get) me (informed|posted)",
        "where are we (now|with this)",
        "tell me (more|what happens next|how far it is|when to expect it)",
        "(give|send) me (some news|word|a report|the state of it)",
        "is there any (progress|word|update)",
        "can you (look up|find out) (how far|where) it is",
    ],
    "stop": [
        "(drop|scrap|undo|void|revoke|withdraw) (it|the order|the deal|my purchase)",
        "(end|stop|abort|cancel) (the purchase|the deal|this deal)",
        "(i wish|i would like) to (withdraw|back out|cancel the purchase)",
        "take (it|me) off (the list|your books)",
        "i do not want it any more so (stop it|end it)",
    ],
    "mend": [
        "(get|have) (it|this) (working|running|mended|repaired|fixed|corrected|put right)",
        "(solve|resolve|settle|clear up|correct) (the issue|the problem|the mistake)(| please| for us| soon)",
        "i want (this|it) (repaired|corrected|solved|mended)",
        "could (you|a person|someone) (mend|solve|repair|look into|correct|fix) (it|this)",
    ],
    "phone": [
        "(dial|telephone|ring) (my number|us)(| please| soon| {t})",
        "i (want|prefer|need) (a phone call|to speak with someone|a chat by phone|to hear a voice)",
        "(my line is open|i answer my phone) (all day|{t})",
        "let us (speak|talk) by phone",
        "have (someone|a person) (ring|phone|call) (me|us)",
    ],
}
SPEEDS = {
    "quick": [
        "(that is|this one is|it is) (pressing|an emergency|time critical|top priority)",
        "(be quick|make haste|quickly please|at once|immediately please|fast please|straight away)",
        "i (need|must have) (it|an answer) (by|before) (noon|tonight|tomorrow|the weekend)",
        "(my flight|the party|the wedding|our trip|my exam) is (tonight|in two hours|{t})",
        "(time is short|the clock is ticking|every hour counts|there is no time to lose|do not make me wait)",
    ],
    "slow": [
        "(no need to hurry|no haste|not pressing|there is plenty of time|time is not an issue|no stress)",
        "(answer|reply|do it) (when|whenever) you (like|can|have time|are free)",
        "(next week|some day|later|after the holidays|in a few weeks) (is fine|will do|is soon enough|is okay with me)",
        "i can (be patient|wait a while|wait for weeks)",
    ],
}
TONES = {
    "cross": [
        "(we are|this makes me|you make me|i feel) (so|very|) "
        "(cross|annoyed|mad|outraged|livid|irritated|furious|angry)",
        "(what an awful|what a bad|such a lousy|what a dreadful) (firm|company|shop|experience|support)",
        "(you are|your firm is) (useless|a disgrace|hopeless|a shame|the worst)",
        "i (have had enough|am done with you|lost my patience|will never buy here again)",
        "(how|this is so) (ridiculous|outrageous|absurd|pathetic|terrible|bad)",
    ],
    "glad": [
        "(i am|we are) (glad|pleased|thrilled|delighted|content|grateful) (with you|anyway|all the same|to shop here)",
        "(you guys|your staff|the team) (rock|are amazing|are kind|are super|do great work|helped me well)",
        "(i like|i enjoy|we adore|we love) (your store|shopping here|your service)",
        "(big thanks|thanks a million|bless you), you are (stars|heroes|wonderful|angels)",
        "(super|fantastic|excellent|great|lovely) (service|store|support|people) (so far|as always)",
    ],
    "anxious": [
        "(i am|we are|it makes us) (anxious|afraid|uneasy|concerned|troubled|worried sick|tense|nervous)",
        "i (cannot sleep|panic|lose sleep) (over|about) (this|it)",
        "(did i make|have i made) (a mistake|an error)",
        "(what if|i dread that) (it is lost|i lose the money|it never works|it was my fault)",
        "i do not know (how to go on|whom to ask|if i did it right)",
        "(scary|i fear the worst|i worry a lot)",
    ],
}

CODES = [
    "(code|reference|no|nr|case|purchase|id|number|booking) {o}",
    "(the|my) (number|code|reference|case|purchase|booking) (is|was) {o}",
    "(under|filed as|regards|look at|about|for) {o}",
    "you call it {o}",
    "{o}",
    "[{o}]",
    "{o} is the (code|number|reference)",
    "on the slip it says {o}",
]
WORDED_CODES = [
    *CODES,
    "(the|my) (purchase|booking|case|number|thing|code) (is|was|has|gets) {w} {o}",
    "(it|this|that one|the whole) (is|was|got) {w} {o}",
    "(my|your|the) {w} {o}",
    "{w} (as|by|with|to|in|from) {o}",
    "{w} {o}",
]
"""Codes after any word {w}, known or not: what comes before a code need not be a phrase that announces one."""
OTHER_CODES = [
    "(forget|skip|ignore) {x}",
    "{x} (is done|was okay|is another matter|came fine|has been settled)",
    "(before that|earlier|last year) i (had|bought) {x} (without trouble|and all was well)",
    "(never mind|this is not) {x}",
]
OTHER_NUMBERS = [
    "my (zip|pin|house|street number|locker|age) is {n}",
    "(i paid|it cost) {n} (dollars|euros)",
    "(box|shelf|room|label|parcel number|phone) {n}",
    "a client since {n}",
]
OTHER_ITEMS = [
    "(our|your|the old) {q} (works|is okay|has no fault|came well)",
    "it has nothing to do with the {q}",
    "i got a {q} too",
]
SMALL_TALK = [
    "(greetings|hi there|good day|hello all|dear people|hi|hello)",
    "(sorry to bother you|i hope this finds you well|the weather is bad|i am on the train|excuse my spelling)",
    "(my wife|my son|a friend|my boss) (asked me to write|says hello|sent me here)",
    "(regards|thanks a lot|see you|many greetings|yours)(| {name})",
]
REPLIES = [
    "(sorry|i am sorry), we (look into|check|work on) {o} {t}.",
    "(thank you|thanks) for writing about the {i}. {name} will answer {t}.",
    "we have noted {o}. (you hear from us|we will write) {t}.",
    "(of course|sure). the {i} is in good hands now.",
]
