"""What is printed in the pictures: numbers, English words, pronounceable words, random capitals and mixed codes."""

import random

_DIGITS = "0123456789"
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MIXED = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"  # O and 0, I and 1 look alike: a code has none of them
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPRSTVWZ", "AEIOU"

# Every fifth is kept for the evaluation.
_WORDS = """
HELLO OPEN STOP CAT DOG SUN MOON STAR BOOK FISH SALE EXIT TAXI BUS CAFE HOTEL PARK MENU SHOP BANK FOOD WATER MILK TEA
BREAD APPLE LEMON GRAPE PEACH MANGO RICE SALT SUGAR HONEY CAKE PIZZA SOUP MEAT EGGS FRESH HOT COLD WARM ICE SNOW RAIN
WIND STORM CLOUD SKY SEA LAKE RIVER HILL TREE LEAF ROSE GRASS BIRD DUCK FROG BEAR WOLF LION TIGER HORSE SHEEP GOAT COW
PIG MOUSE SNAKE ZEBRA PANDA KOALA EAGLE ROBOT LASER RADIO PHONE VIDEO MUSIC PIANO DRUM SONG DANCE PARTY GAME PLAY WIN
TEAM GOAL BALL RACE SPEED FAST SLOW START BEGIN END NEXT BACK LEFT RIGHT UP DOWN NORTH SOUTH EAST WEST HOME HOUSE DOOR
ROOM TABLE CHAIR LAMP LIGHT DARK NIGHT DAY WEEK MONTH YEAR TIME CLOCK HOUR PAPER PEN INK MAP CITY TOWN ROAD TRAIN PLANE
SHIP BOAT CAR BIKE TRUCK WHEEL POWER FIRE EARTH AIR METAL GOLD SILVER IRON STEEL STONE GLASS WOOD PAINT BRUSH COLOR RED
BLUE GREEN BLACK WHITE PINK BROWN ORANGE PURPLE YES NO MAYBE GOOD BAD NEW OLD BIG SMALL LARGE TINY LONG SHORT HIGH LOW
FREE LOVE HAPPY SMILE PEACE HOPE DREAM MAGIC LUCKY CROWN KING QUEEN PRINCE WORLD SPACE PLANET ROCKET COMET ORBIT ALPHA
BETA GAMMA DELTA OMEGA TEST DEMO MODEL VISION IMAGE CODE DATA INPUT OUTPUT CARD ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT
NINE TEN ZERO MAGNET BRIDGE CASTLE GARDEN FLOWER WINTER SUMMER SPRING AUTUMN MONDAY FRIDAY SUNDAY JUNE JULY MARCH APRIL
DANGER SAFETY NOTICE CLOSED ENTER PUSH PULL QUIET QUICK JAZZ WAX FOX BOX VAN HAWK QUIZ ZONE ZIP ROXY VEX JUMP LAZY
""".split()  # noqa: SIM905
_WORDS = [word for word in _WORDS if 3 <= len(word) <= 6]


def printed_word(rng: random.Random, split: str, longest: int = 6) -> str:
    """3 to `longest` digits or capitals. No number could be read as letters, and no word as a number."""
    length = rng.randint(3, longest)
    kind = rng.random()
    if kind < 0.28:
        return _drawn(rng, _DIGITS, length, unlike="01")
    if kind < 0.5:
        fitting = [word for i, word in enumerate(_WORDS) if (i % 5 == 0) == (split == "eval") and len(word) <= longest]
        return rng.choice(fitting)
    if kind < 0.65:
        start = rng.randrange(2)
        letters = [rng.choice(_VOWELS if (i + start) % 2 else _CONSONANTS) for i in range(length)]
        return "".join(letters) if set(letters) - set("OI") else printed_word(rng, split, longest)
    if kind < 0.85:
        return _drawn(rng, _CAPITALS, length, unlike="OI")
    code = _drawn(rng, _MIXED, length, unlike="")
    return code if not (code.isdigit() or code.isalpha()) else printed_word(rng, split, longest)


def _drawn(rng: random.Random, alphabet: str, length: int, unlike: str) -> str:
    """Random characters, not all of them out of `unlike`."""
    while True:
        value = "".join(rng.choices(alphabet, k=length))
        if set(value) - set(unlike):
            return value
