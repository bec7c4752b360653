"""Phrases from which make_tickets builds messages.

In every list the phrases at index 3, 7, 11, … do not occur in train (see `usable` in make_tickets), so their order
matters: moving a phrase changes what the test split measures.
"""

# Share of each category in percent, skewed as in a real ticket queue.
CATEGORIES = {
    "delivery": 34,
    "broken": 25,
    "refund": 14,
    "billing": 11,
    "account": 8,
    "howto": 5,
    "praise": 3,
}

# Canonical product and its names in messages.
PRODUCTS = {
    "kettle": ["kettle", "electric kettle", "kettle"],
    "headphones": ["headphones", "headset", "earphones"],
    "desk lamp": ["desk lamp", "lamp", "reading light"],
    "backpack": ["backpack", "rucksack", "backpack"],
    "chair": ["office chair", "chair", "swivel chair"],
    "keyboard": ["keyboard", "wireless keyboard", "keyboard"],
    "blender": ["blender", "mixer", "blender"],
    "rug": ["rug", "carpet", "wool rug"],
    "bottle": ["water bottle", "bottle", "flask"],
    "camera": ["camera", "digital camera", "camera"],
    "toaster": ["toaster", "toaster", "two slot toaster"],
    "jacket": ["rain jacket", "jacket", "coat"],
    "speaker": ["speaker", "bluetooth speaker", "speaker"],
    "printer": ["printer", "laser printer", "printer"],
    "tent": ["tent", "camping tent", "tent"],
    "watch": ["watch", "smart watch", "wristwatch"],
    "mattress": ["mattress", "mattress", "foam mattress"],
    "bicycle": ["bicycle", "bike", "city bike"],
    "vacuum": ["vacuum", "vacuum cleaner", "hoover"],
    "mirror": ["mirror", "wall mirror", "mirror"],
}
UNNAMED = ["my item", "the thing i bought", "the thing", "what i ordered", "it", "my purchase"]

# {p}: the product with its article, or one of UNNAMED.
PROBLEMS = {
    "delivery": [
        "{p} has not arrived yet",
        "i am still waiting for {p}",
        "where is {p}",
        "no sign of {p} at my door so far",
        "{p} should have been here last week",
        "the courier never brought {p}",
        "the parcel with {p} seems to be lost",
        "{p} is stuck somewhere on its way to me",
        "tracking for {p} has not moved in days",
        "someone else got {p}, it went to the wrong address",
        "{p} is late again",
        "the driver left without handing over {p}",
        "you said two days for {p} and it has been nine",
        "the shipment of {p} is overdue",
        "nobody delivered {p}",
        "{p} still is not with me",
    ],
    "broken": [
        "{p} stopped working",
        "{p} arrived with a big crack",
        "{p} is broken",
        "{p} died after one use",
        "{p} will not turn on",
        "a part of {p} fell off",
        "{p} makes a horrible noise and then quits",
        "{p} has a nasty scratch all over",
        "{p} came damaged",
        "there is a hole in {p}",
        "{p} is faulty",
        "i unpacked {p} and it was smashed",
        "{p} is bent and does not fit together",
        "something inside {p} snapped",
        "{p} does not work any more",
        "{p} is in pieces",
    ],
    "refund": [
        "i sent {p} back and saw no money",
        "i returned {p} two weeks ago and nothing came back",
        "the refund for {p} is missing",
        "my money for {p} has not been paid back",
        "you got {p} back already, so pay me",
        "i want to return {p}",
        "{p} is not for me, i am sending it back",
        "how long does the repayment for {p} take",
        "i changed my mind about {p}",
        "only half of the refund for {p} came",
        "{p} went back to your shop but my bank shows nothing",
        "please take {p} back, i do not like it",
    ],
    "billing": [
        "i was charged twice for {p}",
        "the invoice for {p} shows the wrong total",
        "my card was billed for {p} two times",
        "there is a double payment for {p} on my card",
        "the price of {p} on the bill is too high",
        "the discount on {p} was not applied",
        "i need a proper invoice for {p}",
        "the tax on the receipt for {p} looks off",
        "you took more money for {p} than the page said",
        "the bill for {p} has my old company name",
        "the voucher code did nothing when i paid for {p}",
        "i paid for {p} but the bill says unpaid",
    ],
    "account": [
        "i cannot log in to see {p}",
        "my password is rejected so i cannot manage {p}",
        "the reset email for my login never comes",
        "i am locked out of my profile",
        "please change the email on my account",
        "my account shows another name next to {p}",
        "the app signs me out every time i open {p}",
        "the login page keeps refusing me",
        "i want my user profile deleted",
        "the two step code never reaches my phone",
    ],
    "howto": [
        "how do i clean {p}",
        "is there a manual for {p}",
        "which battery does {p} need",
        "what is the right way to put {p} together",
        "how do i set up {p}",
        "can {p} be used outside",
        "what do the buttons on {p} mean",
        "could you explain how {p} is assembled",
        "does {p} work abroad",
        "what size is {p} when folded",
    ],
    "praise": [
        "{p} is wonderful",
        "just wanted to say that {p} is great",
        "{p} works perfectly",
        "i am so pleased with {p}",
        "{p} is better than i hoped",
        "we love {p}",
        "{p} made my day",
        "five stars for {p}",
    ],
}

# Phrases per wish; the key is the answer.
WANTS = {
    "refund": [
        "please give me my money back",
        "i want a refund",
        "refund me",
        "return the amount to my card",
        "i expect the full sum back",
        "pay me back",
    ],
    "replace": [
        "send me a new one",
        "please swap it",
        "i would like a replacement",
        "exchange it for me",
        "can i get another one instead",
        "ship a fresh one please",
    ],
    "status": [
        "tell me where things stand",
        "any news on this",
        "please check the status",
        "what is the current state",
        "let me know when it will be sorted",
        "give me an update",
    ],
    "cancel": [
        "cancel it all",
        "i want to cancel",
        "please call the whole order off",
        "just stop the order",
        "cancel this now please",
    ],
    "fix": [
        "please repair this",
        "can you fix that",
        "correct it please",
        "make it right",
        "please sort this out for me",
        "someone should mend it",
    ],
    "call": [
        "call me back",
        "please ring me",
        "i would rather talk on the phone",
        "give me a call",
        "phone me about it",
    ],
}

# Weights of the wishes per category; "" is no wish.
WANT_ODDS = {
    "delivery": {"status": 40, "refund": 12, "cancel": 16, "call": 8, "replace": 6, "": 18},
    "broken": {"replace": 38, "refund": 20, "fix": 18, "call": 6, "": 18},
    "refund": {"refund": 40, "status": 25, "call": 8, "": 27},
    "billing": {"fix": 38, "refund": 22, "call": 10, "cancel": 6, "": 24},
    "account": {"fix": 45, "call": 15, "cancel": 8, "": 32},
    "howto": {"call": 20, "": 80},
    "praise": {"": 100},
}

URGENCY = {
    "high": [
        "this is urgent",
        "i need this today",
        "as soon as possible please",
        "it cannot wait",
        "the event is tomorrow",
        "hurry please",
        "i have a deadline tonight",
        "right away if you can",
    ],
    "low": [
        "no rush",
        "take your time",
        "it is not urgent",
        "whenever you get to it",
        "there is no hurry",
        "any day is fine",
        "this can wait",
        "next month is early enough",
    ],
}
MOOD = {
    "angry": [
        "i am really angry",
        "this is a joke",
        "worst shop ever",
        "i am fed up with you",
        "what a terrible service",
        "this is unacceptable",
        "shame on you",
        "i am furious",
    ],
    "happy": [
        "otherwise i love your shop",
        "you have always been great",
        "thanks, you are the best",
        "still a big fan of yours",
        "your team is lovely",
        "keep up the good work",
        "i am a happy customer",
        "you people are brilliant",
    ],
    "worried": [
        "i am a bit worried",
        "i hope i did nothing wrong",
        "i fear it is gone for good",
        "this makes me nervous",
        "i am scared to lose my money",
        "i am not sure what to do",
        "it keeps me up at night",
        "i feel uneasy about this",
    ],
}

# {o}: the order number as spelled in the message.
ORDERS = [
    "order {o}",
    "my order is {o}",
    "order number {o}",
    "the order is called {o}",
    "ref {o}",
    "it is about {o}",
    "see {o}",
    "the number on the paper says {o}",
    "(order {o})",
    "regarding {o}",
]
# Numbers and products that are not the answer. {n}: any number, {x}: another order, {q}: another product.
NUMBERS = [
    "my phone ends in {n}",
    "my postcode is {n}",
    "tracking code {n}",
    "i live at number {n}",
    "not {x}, that one was fine",
    "my older order {x} went well",
    "customer since {n}",
    "{x} is a different story",
]
OTHERS = [
    "my {q} is fine by the way",
    "the {q} from you is great",
    "this is not about the {q}",
    "leave the {q} out of it",
    "i also own your {q}",
]

GREETINGS = [
    "hi",
    "hello",
    "hey there",
    "good morning",
    "dear team",
    "hello support",
    "to whom it may concern",
    "good evening",
]
CHATTER = [
    "i hope you are well",
    "it has been raining all week here",
    "my sister told me to write",
    "i am writing from my phone",
    "sorry for my english",
    "i tried your chat first",
    "we just moved house",
    "i am at work right now",
    "my neighbour had the same thing",
    "i bought it as a gift",
    "the dog barked at the courier",
    "it was on sale",
]
CLOSINGS = ["thanks", "thank you", "best, {name}", "cheers", "kind regards, {name}", "bye", "{name}", "many thanks"]
NAMES = ["Mara", "Tom", "Ines", "Oskar", "Lena", "Raj", "Yuki", "Paul", "Amina", "Greta", "Luca", "Nils"]
